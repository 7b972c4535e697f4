"""Two people and one workspace: each is told what the other's work means for theirs, and nothing is touched."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_dry_runs import pretend, snakemake

REPOSITORY = Path(__file__).resolve().parents[2]
STRANGER = 65534
POWERS = "-dac_override,-dac_read_search,-fowner,-chown"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A workspace with everything up to stage 05, made by another user; `restricted/` is closed, as stage 01 leaves it."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("to be another user needs root and setpriv")
    folder = tmp_path_factory.mktemp("shared") / "workspace"
    folder.mkdir()
    pretend(folder, target="sections_ct")
    (folder / "restricted").chmod(0o700)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    return folder


def as_ordinary_user(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake as a user to whom the rights of files apply: root without the powers that pass over them."""
    command = ["setpriv", "--bounding-set", POWERS, "--inh-caps", POWERS, sys.executable, "-m", "snakemake"]
    command += ["--snakefile", str(REPOSITORY / "workflow" / "Snakefile"), "--directory", str(folder), "--cores", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=folder)


def contents(folder: Path) -> dict[str, tuple[bytes, float]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".snakemake" not in path.parts]
    return {str(path): (path.read_bytes(), path.stat().st_mtime) for path in files}


def test_a_workspace_that_one_may_not_write_is_refused_in_one_line_that_says_what_to_do(theirs):
    before = contents(theirs)
    run = as_ordinary_user(theirs, "sections_ct")
    assert run.returncode != 0 and "Traceback" not in run.stderr
    (told,) = [line for line in run.stderr.splitlines() if line.startswith("glint:")]
    assert f"{theirs} is another user's (uid {STRANGER})" in told and "--directory" in told
    assert contents(theirs) == before


def test_a_workspace_shared_with_a_group_is_worked_in_without_seeing_what_is_restricted(theirs, tmp_path):
    shared = tmp_path / "shared"
    subprocess.run(["cp", "-a", str(theirs), str(shared)], check=True)
    subprocess.run(["chmod", "-R", "a+rwX", str(shared)], check=True)
    (shared / "restricted").chmod(0o700)
    before = contents(shared)
    run = as_ordinary_user(shared, "--dry-run", "sections_ct")
    assert run.returncode == 0 and "Nothing to be done" in run.stdout + run.stderr, run.stderr
    assert contents(shared) == before


def test_a_second_run_beside_a_living_one_is_refused_with_words_that_name_the_first(tmp_path):
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("restricted/ct/00_demo/summary.json\n")
    (tmp_path / ".snakemake" / "owner").write_text(f"{socket.gethostname()} {os.getpid()}")
    run = snakemake(tmp_path, "demo_ct")
    assert run.returncode != 0
    assert f"process {os.getpid()} on {socket.gethostname()} works in this folder" in run.stderr
    assert "cannot be locked" in run.stdout + run.stderr and "--unlock" in run.stderr
    assert not (tmp_path / "restricted" / "ct").exists()
