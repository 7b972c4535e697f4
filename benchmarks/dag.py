"""What the plan and the job cost: dry runs by cohort size, and the overhead of a job beside a shard's work.

Usage: python benchmarks/dag.py [--repeats 3] [--measured WORKSPACE --cohort NAME]

Dry runs plan `evaluate_ct` in an empty folder with 200 studies per shard. The overhead is that of jobs that do nothing:
Snakemake's own, then with the two Python starts of a real job (the stage, its receipt). `--measured` names a workspace
whose logs say what a shard's work took.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from glint.core.config.schema import read_config
from glint.formats.workspace import read_workspace

REPOSITORY = Path(__file__).resolve().parents[1]
SNAKEFILE = REPOSITORY / "workflow" / "Snakefile"
STUDIES_PER_SHARD = 200
COHORTS = (1_000, 10_000, 50_000)
TRIVIAL_JOBS = 20
CORES = 2
TRIVIAL = """
rule all:
    input: expand("out/{{n}}", n=range({jobs}))

rule one:
    output: "out/{{n}}"
    shell: "{command} > {{output}}"
"""
COMMANDS = {
    "nothing (`true`)": "true",
    "one Python start (`glint convert --help`)": "{python} -m glint convert --help",
    "a job's two starts (with its receipt)": "( {python} -m glint convert --help && {python} -m glint receipt --help )",
}


@dataclass(frozen=True)
class Ran:
    """Wall and CPU seconds, its children's too, peak resident memory in MiB, and what was printed."""

    seconds: float
    cpu_s: float
    peak_mib: float
    said: str


def run(folder: Path, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", str(CORES), *arguments]
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=folder)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        said.seek(0)
        text = said.read().decode()
    if child.returncode:
        raise SystemExit(text[-2000:])
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def dry_run(num_shards: int) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        override = f'index={{"ct":{{"num_shards":{num_shards}}}}}'
        arguments = ("--snakefile", str(SNAKEFILE), "--dry-run", "--config", override, "--", "evaluate_ct")
        return run(Path(folder), *arguments)


def plans(repeats: int) -> None:
    print("Medians. A busy machine raises CPU seconds by half or so, wall seconds by any amount.\n")
    print("| studies | shards | jobs | CPU s | wall s | peak MiB | jobs ratio | CPU ratio | MiB ratio |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    before: tuple[float, float, float] | None = None
    for studies in COHORTS:
        shards = studies // STUDIES_PER_SHARD
        runs = [dry_run(shards) for _ in range(repeats)]
        total = re.search(r"^total +(\d+)$", runs[0].said, re.MULTILINE)
        assert total is not None, runs[0].said
        cpu_s, peak_mib = (statistics.median(getattr(ran, name) for ran in runs) for name in ("cpu_s", "peak_mib"))
        now = (float(total[1]), cpu_s, peak_mib)
        ratios = [f"{new / old:.2f}" for new, old in zip(now, before, strict=True)] if before else ["-"] * 3
        wall_s = statistics.median(ran.seconds for ran in runs)
        cells = f"{now[0]:.0f} | {cpu_s:.1f} | {wall_s:.1f} | {peak_mib:.0f} | {' | '.join(ratios)}"
        print(f"| {studies:,} | {shards} | {cells} |", flush=True)
        before = now
    print("\n`shard-\\d{3}` and `index.ct.num_shards` ≤ 999 allow 999 shards: 199,800 studies at 200 per shard.\n")


def trivial(command: str, jobs: int) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        snakefile = Path(folder) / "Snakefile"
        snakefile.write_text(TRIVIAL.format(jobs=jobs, command=command.format(python=sys.executable)))
        return run(Path(folder), "--snakefile", str(snakefile), "--quiet", "all")


def overheads() -> float:
    """Print the table; returns the core seconds that a real job costs before it works."""
    print(f"| job does | {TRIVIAL_JOBS} jobs on {CORES} cores, CPU s | wall s | CPU s per job |")
    print("|---|--:|--:|--:|")
    per_job = 0.0
    start_s = trivial("true", 1).cpu_s
    for name, command in COMMANDS.items():
        ran = trivial(command, TRIVIAL_JOBS)
        per_job = max(0.0, ran.cpu_s - start_s) / (TRIVIAL_JOBS - 1)
        print(f"| {name} | {ran.cpu_s:.1f} | {ran.seconds:.1f} | {per_job:.2f} |", flush=True)
    print(f"\nA run of one such job takes {start_s:.1f} CPU s: Snakemake's own start.\n")
    return per_job


def shares(workspace: Path, cohort: str, overhead_s: float) -> None:
    config = read_config(REPOSITORY / "config", {"cohort": cohort})
    print("| stage | studies per shard | measured s per job | overhead's share | at 200 studies per shard |")
    print("|---|--:|--:|--:|--:|")
    for state in read_workspace(workspace, config, "ct"):
        sharded = state.jobs_expected == config.index.ct.num_shards
        if not sharded or state.mean_job_s is None or not state.studies_ok:
            continue
        studies = (state.studies_ok + (state.studies_set_aside or 0)) / state.jobs_done
        work_s = max(state.mean_job_s, overhead_s)
        full_s = overhead_s + (work_s - overhead_s) * STUDIES_PER_SHARD / studies
        name = f"{state.stage} {state.part}".strip()
        cells = f"{studies:.0f} | {state.mean_job_s:.1f} | {overhead_s / work_s:.0%} | {overhead_s / full_s:.0%}"
        print(f"| {name} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="dry runs per cohort size")
    parser.add_argument("--measured", type=Path, help="workspace with logs/ of a real run")
    parser.add_argument("--cohort", default="demo", help="the cohort of that run")
    args = parser.parse_args()
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, ", end="")
    print(f"snakemake {version('snakemake')}; load at start {os.getloadavg()[0]:.1f}\n")
    plans(args.repeats)
    overhead_s = overheads()
    if args.measured:
        shares(args.measured, args.cohort, overhead_s)


if __name__ == "__main__":
    main()
