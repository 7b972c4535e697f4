"""What the plan costs: dry runs by cohort size, from nothing and of a finished workspace, and what Snakemake takes per job.

Usage: python benchmarks/dag.py [--repeats 3]

Dry runs plan `evaluate_ct` with 200 studies per shard. The finished workspace has every output and receipt, all tiny.
Writes results/dag.md. What a job's start costs beside a shard's work: job_overhead.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from glint.cli.__main__ import main as glint

REPOSITORY = Path(__file__).resolve().parents[1]
SNAKEFILE = REPOSITORY / "workflow" / "Snakefile"
STUDIES_PER_SHARD = 200
COHORTS = (1_000, 10_000, 50_000)
TRIVIAL_JOBS = 10
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
ALLOWED_S, ALLOWED_MIB = 60, 2_000
"""What a plan of the largest cohort may take."""
RESULT = Path(__file__).parent / "results" / "dag.md"


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


def dry_run(folder: Path, num_shards: int, *arguments: str) -> Ran:
    override = f'index={{"ct":{{"num_shards":{num_shards}}}}}'
    options = ("--snakefile", str(SNAKEFILE), "--dry-run", "--config", override, *arguments, "--", "evaluate_ct")
    return run(folder, *options)


def pretend(folder: Path, num_shards: int) -> int:
    """Write every planned output, tiny, and the receipt its rule would write; returns how many."""
    plan = dry_run(folder, num_shards, "--printshellcmds", "--quiet", "host")
    receipts = re.findall(r"python -m glint (receipt .*) \) > logs", plan.said)
    for receipt in receipts:
        words = shlex.split(receipt)
        for output in words[words.index("--outputs") + 1 : words.index("--log")]:
            (folder / output).parent.mkdir(parents=True, exist_ok=True)
            (folder / output).write_text(output)
        with contextlib.chdir(folder):
            if glint(words):
                raise SystemExit(f"{words[:4]} failed")
    return len(receipts)


@dataclass(frozen=True)
class Plan:
    """One cohort's dry run: the studies, shards and jobs, then medians."""

    studies: int
    shards: int
    jobs: int
    cpu_s: float
    seconds: float
    peak_mib: float


def planned(studies: int, repeats: int) -> Plan:
    shards = studies // STUDIES_PER_SHARD
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(dry_run(Path(folder), shards))
    total = re.search(r"^total +(\d+)$", runs[0].said, re.MULTILINE)
    assert total is not None, runs[0].said
    medians = {name: statistics.median(getattr(ran, name) for ran in runs) for name in ("cpu_s", "seconds", "peak_mib")}
    return Plan(studies=studies, shards=shards, jobs=int(total[1]), **medians)


def plans(found: list[Plan]) -> list[str]:
    lines = [
        "| studies | shards | jobs | CPU s | wall s | peak MiB | studies ratio | CPU ratio | MiB ratio |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for number, now in enumerate(found):
        before = found[number - 1] if number else now
        ratios = [f"{getattr(now, name) / getattr(before, name):.2f}" for name in ("studies", "cpu_s", "peak_mib")]
        cells = f"{now.jobs:,} | {now.cpu_s:.1f} | {now.seconds:.1f} | {now.peak_mib:.0f}"
        lines.append(f"| {now.studies:,} | {now.shards} | {cells} | {' | '.join(ratios if number else ['-'] * 3)} |")
    first, last = found[0], found[-1]
    grown, cpu, mib = last.studies / first.studies, last.cpu_s / first.cpu_s, last.peak_mib / first.peak_mib
    linear = "at most" if max(cpu, mib) <= grown else "MORE THAN"
    within = "within" if last.seconds <= ALLOWED_S and last.peak_mib <= ALLOWED_MIB else "BEYOND"
    return [
        *lines,
        "",
        f"{grown:.0f} times the studies cost {cpu:.1f} times the CPU seconds and {mib:.1f} times the memory: {linear} linear growth. "
        f"{last.studies:,} studies are {within} {ALLOWED_S} s and {ALLOWED_MIB:,} MiB.",
        f"A job more costs {1000 * (last.cpu_s - first.cpu_s) / (last.jobs - first.jobs):.1f} ms CPU. `index.ct.num_shards` ≤ 999 allows {999 * STUDIES_PER_SHARD:,} studies.",
    ]


def finished(shards: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        receipts = pretend(Path(folder), shards)
        ran = dry_run(Path(folder), shards)
    if "Nothing to be done" not in ran.said:
        raise SystemExit(ran.said[-2000:])
    return (
        f"A finished workspace of {shards} shards, whose {receipts:,} receipts are read and checked first: {ran.cpu_s:.1f} CPU s, "
        f"{ran.seconds:.1f} s, {ran.peak_mib:.0f} MiB, nothing to be done."
    )


def trivial(command: str, jobs: int) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        snakefile = Path(folder) / "Snakefile"
        snakefile.write_text(TRIVIAL.format(jobs=jobs, command=command.format(python=sys.executable)))
        return run(Path(folder), "--snakefile", str(snakefile), "--quiet", "all")


def overheads() -> list[str]:
    lines = [
        f"| job does | {TRIVIAL_JOBS} jobs on {CORES} cores, CPU s | wall s | CPU s per job |",
        "|---|--:|--:|--:|",
    ]
    start_s = trivial("true", 1).cpu_s
    for name, command in COMMANDS.items():
        ran = trivial(command, TRIVIAL_JOBS)
        per_job = max(0.0, ran.cpu_s - start_s) / (TRIVIAL_JOBS - 1)
        lines.append(f"| {name} | {ran.cpu_s:.1f} | {ran.seconds:.1f} | {per_job:.2f} |")
    return [*lines, "", f"A run of one such job takes {start_s:.1f} CPU s: Snakemake's own start."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="dry runs per cohort size")
    args = parser.parse_args()
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = os.getloadavg()[0]
    lines = [
        "# What the plan costs",
        "",
        f"`python benchmarks/dag.py --repeats {args.repeats}`: `snakemake --dry-run evaluate_ct` in an empty folder, {STUDIES_PER_SHARD} studies per shard, medians.",
        "",
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, snakemake {version('snakemake')}; load at start {load:.1f}.",
        "",
        *plans([planned(studies, args.repeats) for studies in COHORTS]),
        "",
        finished(COHORTS[-1] // STUDIES_PER_SHARD),
        "",
        "## Jobs that do nothing",
        "",
        *overheads(),
        "",
        "What starts and receipts cost beside the work of a full shard of scans of real size: job_overhead.md.",
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
