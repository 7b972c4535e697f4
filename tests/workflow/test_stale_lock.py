"""A killed run leaves a lock; the same command drops it when its process is gone, and only then."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def locked_workspace(folder: Path, pid: int, host: str) -> Path:
    (folder / ".snakemake" / "locks").mkdir(parents=True)
    lock = folder / ".snakemake" / "locks" / "0.output.lock"
    lock.write_text("results/x\n")
    (folder / ".snakemake" / "owner").write_text(f"{host} {pid}")
    return lock


def plan(folder: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "1", "--dry-run", "demo_ct"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_of_a_dead_run_on_this_host_is_dropped(tmp_path, dead_pid):
    lock = locked_workspace(tmp_path, dead_pid, socket.gethostname())
    plan(tmp_path)
    assert not lock.exists()


def test_the_lock_of_a_living_run_or_of_another_host_stays(tmp_path, dead_pid):
    for name, pid, host in (("living", os.getpid(), socket.gethostname()), ("elsewhere", dead_pid, "another-host")):
        (tmp_path / name).mkdir()
        lock = locked_workspace(tmp_path / name, pid, host)
        plan(tmp_path / name)
        assert lock.exists(), name
