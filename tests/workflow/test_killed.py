"""kill -9 in the middle of every stage, then the same command: it finishes, and what it made equals an undisturbed run's."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from glint.cli.__main__ import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SMALL = (
    'demo={"studies":16,"defects":false}',
    'index={"ct":{"num_shards":2}}',
    'teacher={"ct":{"pretrain":{"steps":4,"warmup_steps":1,"checkpoint_every":1}}}',
    'train={"ct":{"head_steps":4,"steps":2,"batch_size":2,"validate_every":3,"checkpoint_every":1}}',
    'evaluate={"ct":{"resamples":20}}',
)


def start(folder: Path, target: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "2", "--config", *SMALL, "--", target]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=environment)


def finish(folder: Path, target: str) -> None:
    assert start(folder, target).wait() == 0, (folder / "said.txt").read_text()[-4000:]


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing where it is gone already."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_in(folder: Path, stage: str) -> bool:
    """Start the road to `stage` and kill it, with all that it started, once one of the stage's jobs is at work."""
    run = start(folder, f"{stage}_ct")
    tree = psutil.Process(run.pid)
    while run.poll() is None:
        if any(f"glint {stage}" in command_of(child) for child in tree.children(recursive=True)):
            time.sleep(0.3 if stage == "split" else 0.8)  # a split of 16 studies is over in half a second
            for process in [*tree.children(recursive=True), tree]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            return run.wait() != 0
        time.sleep(0.05)
    return False


def made(folder: Path) -> dict[str, str]:
    """Identity of every output that receipts vouch for, and the numbers of stage 10 without their pictures."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("results/ct/receipts/*/*.json")):
        if path.parent.name != "10_evaluate":
            found |= json.loads(path.read_text())["outputs"]
    return found | {"metrics": (folder / "results/ct/10_evaluate/metrics.json").read_text()}


def test_a_run_killed_in_every_stage_ends_as_an_undisturbed_one(tmp_path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    killed.mkdir(), undisturbed.mkdir()
    hit = {stage: kill_in(killed, stage) for stage in COMMANDS}
    assert all(hit.values()), hit
    finish(killed, "evaluate_ct")
    finish(undisturbed, "evaluate_ct")
    assert len(made(undisturbed)) >= 16
    assert made(killed) == made(undisturbed)
    assert not list(killed.glob("results/**/.*.tmp.*")), "what was cut off must not stay"
