"""One campaign of the small demo on the lab's Slurm, in which everything happens that happens on a cluster.

The conversion of a shard outgrows its memory, a shard of sections hangs beyond its limit, the nodes are drained while shards
wait, and the training is preempted. Nobody helps; the profile's retries and the saved state have to.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lab import NODE_MEM_MB, Lab, eventually

from glint.core.config.schema import overlay

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 1800.0
DRAINED_S = 12.0
FIRST_MEM_MB, GROWN_MEM_MB = 400, 1600
HANGING_JOB = "glint sections --manifest results/ct/02_deidentify/reports/shard-001"
JOB = {"mem_mb": 1000, "runtime_min": 15}
SITE: dict[str, Any] = {
    "demo": {"studies": 12},
    "index": {"ct": {"num_shards": 2}},
    "teacher": {"ct": {"pretrain": {"steps": 3, "warmup_steps": 1, "appearance_volumes": 4}}},
    "features": {"ct": {"precision": "float32"}},  # auto measures, and a busy machine may measure otherwise
    "train": {"ct": {"head_steps": 480, "steps": 2, "batch_size": 4, "checkpoint_every": 40, "validate_every": 120}},
    "cluster": {
        "partition": "batch",
        "growth": 3.0,
        "mem_mb_max": NODE_MEM_MB,
        **dict.fromkeys(("demo", "index", "deidentify", "resample", "split", "evaluate"), JOB),
        "convert": {**JOB, "mem_mb": FIRST_MEM_MB},
        "sections": {**JOB, "runtime_min": 2},
        **{stage: {**JOB, "mem_mb": 3000} for stage in ("teacher", "features", "train")},
    },
}
"""What a site writes into its own file below config/."""


def site(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A checkout's workflow and config below `folder`, with the site's file and its name in place; returns the Snakefile."""
    for name in ("workflow", "config"):
        shutil.copytree(REPOSITORY / name, folder / name, dirs_exist_ok=True)
    demo = yaml.safe_load((REPOSITORY / "config" / "demo.yaml").read_text())
    values = overlay(overlay(demo, SITE), dict(changes or {}))
    (folder / "config" / "lab.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    reference = folder / "config" / "config.yaml"
    reference.write_text(reference.read_text().replace("\ncohort: demo\n", "\ncohort: lab\n"))
    return folder / "workflow" / "Snakefile"


def hanging_python(folder: Path) -> str:
    """A folder for PATH whose `python` hangs once at HANGING_JOB, as a storage does, and is the real one otherwise."""
    folder.mkdir()
    shim = folder / "python"
    shim.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"{HANGING_JOB}"*)\n'
        f"  if mkdir {folder}/hung 2>/dev/null; then sleep 1000; fi;;\n"
        "esac\n"
        f'exec {sys.executable} "$@"\n'
    )
    shim.chmod(0o755)
    return str(folder)


@dataclass(kw_only=True)
class Campaign:
    """What happened, and where it left its files."""

    folder: Path
    returncode: int = -1
    said: str = ""
    running_while_drained: list[str] = field(default_factory=list)
    waiting_while_drained: list[str] = field(default_factory=list)
    preempted_at_s: float | None = None
    failures: list[str] = field(default_factory=list)


def snakemake(snakefile: Path, folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """A Snakemake call whose working folder is `folder`."""
    binaries = os.pathsep.join(part for part in (path, str(Path(sys.executable).parent), os.environ["PATH"]) if part)
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder), *arguments],
        env={**os.environ, "PATH": binaries, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def on_slurm(snakefile: Path, folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The call of docs/hpc.md, with what a lab without a database and with little time adds."""
    profile = snakefile.parent / "profiles" / "slurm"
    hurried = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10", "--slurm-keep-successful-logs")
    lab = ("--slurm-status-command", "squeue", "--slurm-no-account")
    return snakemake(snakefile, folder, "--profile", str(profile), *hurried, *lab, *arguments, path=path)


def _drain(lab: Lab, campaign: Campaign) -> None:
    eventually(lambda: lab.jobs("rule_resample"), within_s=PATIENCE_S, what="a job of resample")
    lab.update_nodes(State="drain", Reason="maintenance")
    before = {job.number for job in lab.jobs() if job.state != "PENDING"}
    eventually(
        lambda: not [j for j in lab.jobs() if j.state == "RUNNING"], within_s=300, what="the end of running jobs"
    )
    time.sleep(DRAINED_S)
    jobs = lab.jobs()
    campaign.running_while_drained = [j.comment for j in jobs if j.state != "PENDING" and j.number not in before]
    campaign.waiting_while_drained = [j.comment for j in jobs if j.state == "PENDING"]
    lab.update_nodes(State="resume")


def _preempt(lab: Lab, campaign: Campaign) -> None:
    states = campaign.folder / "state" / "ct" / "09_train" / "glint"
    eventually(lambda: list(states.glob("*/state.safetensors")), within_s=PATIENCE_S, what="a saved state of training")
    campaign.preempted_at_s = time.time()
    urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--comment=urgent", "--wrap=sleep 3"]
    subprocess.run(urgent, check=True, capture_output=True, cwd=lab.root)


def run_campaign(lab: Lab, root: Path) -> Campaign:
    """Run to a checkpoint while all that happens."""
    campaign = Campaign(folder=root / "work")

    def happens(event: Callable[[Lab, Campaign], None]) -> None:
        try:
            event(lab, campaign)
        except Exception as error:  # told by the test, which would otherwise only see that nothing happened
            campaign.failures.append(f"{event.__name__}: {error}")
            lab.update_nodes(State="resume")

    events = [threading.Thread(target=happens, args=(event,), daemon=True) for event in (_drain, _preempt)]
    for event in events:
        event.start()
    done = on_slurm(site(root / "site"), campaign.folder, "train_ct", path=hanging_python(root / "bin"))
    campaign.returncode, campaign.said = done.returncode, done.stdout
    return campaign
