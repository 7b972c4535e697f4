"""DVC owns versions, Snakemake owns files: five scenes in which they must agree, on a hospital of a dozen studies.

Slow: the whole road runs once, then its last stages a few times.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

KEYS = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
SMALL = {
    "demo": {"studies": 16, "defects": False},
    "index": {"ct": {"num_shards": 2}, "cxr": {"raw_dirs": [], "report_table": None}},
    "teacher": {"ct": {"pretrain": {"steps": 2, "warmup_steps": 1}}},
    "train": {"ct": {"head_steps": 4, "steps": 2, "batch_size": 2, "validate_every": 3}},
    "evaluate": {"ct": {"resamples": 20}},
}


def overlaid(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = overlaid(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


class Workspace:
    """A clone with its own Python path; commands must succeed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.environment |= {
            f"GIT_{who}_{what}": "glint@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def change(self, changes: dict) -> None:
        file = self.folder / "config" / "demo.yaml"
        file.write_text(yaml.safe_dump(overlaid(yaml.safe_load(file.read_text()), changes)))

    def record(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def reran(self, output: str) -> set[str]:
        return set(re.findall(r"Running stage '([a-z_]+)'", output))

    def agrees(self) -> None:
        """Both engines say that nothing is to be done."""
        assert "up to date" in self.run("dvc", "status")
        planned = self.run("snakemake", "--cores", "2", "--dry-run", "evaluate_ct")
        assert "Nothing to be done" in planned, planned


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, store) -> Workspace:
    """The repository as it stands, small, brought up to date once by `dvc repro` and recorded as tag `first`."""
    folder = tmp_path_factory.mktemp("scenes") / "glint"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    made = Workspace(folder)
    made.run("git", "init", "-q", "-b", "main")
    made.change(SMALL)
    made.run("dvc", "remote", "add", "-d", "store", str(store))
    made.record("start")
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    assert made.reran(made.run("dvc", "repro")) == set(stages)
    made.record("first")
    made.run("git", "tag", "first")
    return made


def test_1_a_second_repro_does_nothing(workspace):
    assert workspace.reran(workspace.run("dvc", "repro")) == set()
    workspace.agrees()


def test_2_one_parameter_reruns_its_descendants_only(workspace):
    workspace.change({"train": {"ct": {"loss": {"area": 0.04}}}})
    # The section is one parameter of both modalities; where no film is named, the call for films makes nothing.
    assert workspace.reran(workspace.run("dvc", "repro")) == {"train_ct", "evaluate_ct", "train_cxr"}
    workspace.record("second")
    workspace.agrees()
    assert "glint.dice_all.macro" in workspace.run("dvc", "metrics", "diff", "first", "--all")


def test_3_push_fresh_clone_pull_and_nothing_is_to_be_done(workspace, tmp_path):
    workspace.run("dvc", "push", "--all-commits")
    workspace.run("git", "clone", "-q", str(workspace.folder), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.run("dvc", "pull")
    clone.agrees()
    assert not (clone.folder / "restricted").exists(), "identifiers must not travel"


@pytest.fixture
def bucket_endpoint() -> Iterator[str]:
    """An S3 server on this machine with one empty bucket, `glint`."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        endpoint = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS).create_bucket(Bucket="glint")
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_3_the_same_through_s3(workspace, tmp_path, bucket_endpoint):
    workspace.run("git", "clone", "-q", str(workspace.folder), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    for place in (workspace, clone):
        place.run("dvc", "remote", "add", "--local", "--force", "bucket", "s3://glint/store")
        place.run("dvc", "remote", "modify", "--local", "bucket", "endpointurl", bucket_endpoint)
        place.environment |= {
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        }
    workspace.run("dvc", "push", "--remote", "bucket")
    clone.run("dvc", "pull", "--remote", "bucket")
    clone.agrees()


def test_3_a_lost_remote_is_told_and_a_push_brings_it_back(workspace, tmp_path, store):
    shutil.rmtree(store / "files")
    workspace.run("git", "clone", "-q", str(workspace.folder), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    failed = subprocess.run(
        ["dvc", "pull"], cwd=clone.folder, env=clone.environment, capture_output=True, text=True, check=False
    )
    assert failed.returncode != 0 and "missing" in (failed.stdout + failed.stderr).lower()
    workspace.agrees()
    workspace.run("dvc", "push", "--all-commits")
    clone.run("dvc", "pull")
    clone.agrees()


def test_4_an_older_commit_checked_out_is_up_to_date_and_so_is_the_way_back(workspace):
    for revision in ("first", "main"):
        workspace.run("git", "checkout", "-q", revision)
        workspace.run("dvc", "checkout")
        workspace.agrees()


def test_5_a_direct_run_is_recorded_by_glint_commit_and_refused_while_stale(workspace):
    workspace.change({"evaluate": {"ct": {"seed": 5}}})
    refused = subprocess.run(
        ["glint", "commit"],
        cwd=workspace.folder,
        env=workspace.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1 and "configuration changed" in refused.stderr
    workspace.run("snakemake", "--cores", "2", "evaluate_ct")
    workspace.run("glint", "commit")
    workspace.agrees()
    assert workspace.reran(workspace.run("dvc", "repro")) == set()


def test_6_an_output_newer_than_its_changed_input_is_made_again(workspace):
    """Persisted outputs keep their place through a parameter change; times alone would keep the old content."""
    workspace.change({"evaluate": {"ct": {"mask_offset": 0.5}}})
    for path in (workspace.folder / "results" / "ct" / "10_evaluate").rglob("*"):
        os.utime(path)
    assert workspace.reran(workspace.run("dvc", "repro")) == {"evaluate_ct", "evaluate_cxr"}
    assert "c = 0.5" in (workspace.folder / "results/ct/10_evaluate/report.html").read_text()
    workspace.agrees()


def test_7_an_experiment_reruns_what_its_parameter_reaches_and_is_kept_apart(workspace):
    done = workspace.run(
        "dvc", "exp", "run", "--name", "seeds", "-S", "config/config.yaml:evaluate.ct.probe.iterations=7"
    )
    assert workspace.reran(done) == {"evaluate_ct", "evaluate_cxr"}
    assert "seeds" in workspace.run("dvc", "exp", "list")
    workspace.agrees()
