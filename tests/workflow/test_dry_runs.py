"""Every public target plans its jobs from nothing and from empty files; bad configuration stops before that."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from glint.cli.__main__ import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = [f"{command}_ct" for command in COMMANDS]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def planned(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert run.returncode == 0, run.stdout + run.stderr
    return {
        name: int(count) for name, count in re.findall(r"^([a-z_]+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_public_target_plans_from_nothing(tmp_path, target):
    jobs = planned(snakemake(tmp_path, "--dry-run", target))
    assert jobs["demo"] == 1 and jobs["total"] >= 2


def test_the_plan_is_a_job_per_shard_never_a_job_per_study(tmp_path):
    jobs = planned(snakemake(tmp_path, "--dry-run", "evaluate_ct"))
    assert jobs["convert"] == jobs["resample"] == jobs["features"] == jobs["deidentify_images"]
    assert jobs["convert"] <= 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A workspace in which every output exists, empty, as if all stages had run."""
    folder = tmp_path_factory.mktemp("finished")
    run = snakemake(folder, "--touch", "--forceall", "evaluate_ct")
    plan = snakemake(folder, "--dry-run", "--forceall", "--verbose", "evaluate_ct")
    assert plan.returncode == 0, run.stderr
    for line in snakemake(folder, "--dry-run", "--forceall", "--summary", "evaluate_ct").stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert snakemake(folder, "--touch", "--forceall", "evaluate_ct").returncode == 0
    return folder


def test_a_finished_workspace_has_nothing_to_do(finished):
    assert "Nothing to be done" in (lambda run: run.stdout + run.stderr)(
        snakemake(finished, "--dry-run", "evaluate_ct")
    )


def test_a_changed_parameter_reruns_its_stage_and_what_follows_only(finished):
    jobs = planned(snakemake(finished, "--dry-run", "--config", 'evaluate={"ct":{"seed":99}}', "--", "evaluate_ct"))
    assert "train" not in jobs and "features" not in jobs and jobs["evaluate_models"] == 1
    jobs = planned(snakemake(finished, "--dry-run", "--config", 'resample={"ct":{"hu_max":2000}}', "--", "evaluate_ct"))
    assert jobs["resample"] >= 1 and "convert" not in jobs and "deidentify_images" not in jobs and jobs["train"] == 2


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ('train={"ct":{"learning_rat":0.1}}', "train.ct.learning_rat"),
        ('resample={"ct":{"grid":"large"}}', "resample.ct.grid"),
        ('resample={"ct":{"grid":[55,56,72]}}', "no multiple of teacher.ct.encoder.patch"),
        ("cohort=no_such_cohort", "no_such_cohort"),
        ("trian=1", "trian"),
    ],
)
def test_a_wrong_key_stops_before_the_plan_with_one_line_that_names_it(tmp_path, override, key):
    run = snakemake(tmp_path, "--dry-run", "--config", override, "--", "train_ct")
    assert run.returncode != 0
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("glint:")]
    assert len(lines) == 1 and key in lines[0]
    assert "Traceback" not in run.stderr
