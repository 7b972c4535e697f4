"""What DVC has to carry for many studies: files per stage, and seconds to add, push, check and check them out.

Usage: python benchmarks/dvc_scale.py --work FOLDER [--studies 50000] [--per-shard 200] [--slices 300]

Makes the real layout of stages 02 to 08 with tiny files of different content, stage 02 without its slices (docs/hpc.md, "What to
push"), then times `dvc add` of every stage, `dvc push` of all to a local folder, `dvc status`, one study more, and `dvc checkout` of a removed
stage. Writes results/dvc_scale.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

FILE_BYTES = 2_000
RESULT = Path(__file__).parent / "results" / "dvc_scale.md"
STAGES = {
    "02_deidentify/images": "manifest, audit and sums per shard; slices left out",
    "02_deidentify/reports": "manifest and audit per shard",
    "03_convert": "NIfTI per study; manifest and sums per shard",
    "04_resample": "NIfTI per study; manifest and sums per shard",
    "05_sections": "four tables per shard",
    "06_split": "one table",
    "08_features": "HDF5 and manifest per shard",
    "receipts": "one per job",
}
PER_SHARD = {
    "02_deidentify/images": ("manifest.parquet", "audit.json", "sha256.txt"),
    "02_deidentify/reports": ("manifest.parquet", "audit.json"),
    "03_convert": ("manifest.parquet", "sha256.txt"),
    "04_resample": ("manifest.parquet", "sha256.txt"),
    "05_sections": ("manifest.parquet", "sections.parquet", "sentences.parquet", "findings.parquet"),
    "08_features": ("manifest.parquet", "tokens.h5"),
    "receipts": tuple(f"{stage}.json" for stage in ("02_images", "02_reports", "03", "04", "05", "08")),
}
PER_STUDY = ("03_convert", "04_resample")


def content(number: int) -> bytes:
    return number.to_bytes(8, "little") * (FILE_BYTES // 8)


def write_layout(results: Path, studies: int, per_shard: int) -> dict[str, int]:
    """Write every stage's files, each with content of its own; returns how many a stage has."""
    counts = dict.fromkeys(STAGES, 0)

    def write(stage: str, *place: str) -> None:
        path = results.joinpath(stage, *place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(sum(counts.values())))
        counts[stage] += 1

    for shard in range(-(-studies // per_shard)):
        for stage, names in PER_SHARD.items():
            for name in names:
                write(stage, f"shard-{shard:03d}", name)
    for stage in PER_STUDY:
        for study in range(studies):
            write(stage, f"shard-{study // per_shard:03d}", "volumes", f"s{study:020x}.nii")
    write("06_split", "manifest.parquet")
    return counts


def dvc(work: Path, *arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one dvc command."""
    started = time.monotonic()
    command = [sys.executable, "-m", "dvc", "--quiet", *arguments]
    child = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"dvc {' '.join(arguments)} failed")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="empty folder")
    parser.add_argument("--studies", type=int, default=50_000)
    parser.add_argument("--per-shard", type=int, default=200)
    parser.add_argument("--slices", type=int, default=300, help="slices per study, for the count of what is left out")
    args = parser.parse_args()
    work, load = args.work.resolve(), os.getloadavg()[0]
    results = work / "results" / "ct"
    counts = write_layout(results, args.studies, args.per_shard)
    total = sum(counts.values())
    os.environ["DVC_NO_ANALYTICS"] = "true"
    dvc(work, "init", "--no-scm")
    dvc(work, "remote", "add", "--default", "local", str(work / "remote"))
    took: dict[str, tuple[float, float, float]] = {}
    added = {stage: dvc(work, "add", f"results/ct/{stage}") for stage in STAGES}
    took["add, stage after stage"] = (
        sum(used[0] for used in added.values()),
        sum(used[1] for used in added.values()),
        max(used[2] for used in added.values()),
    )
    took["push"] = dvc(work, "push")
    took["status, nothing changed"] = dvc(work, "status")
    (results / "04_resample" / "shard-000" / "volumes" / "one_more.nii").write_bytes(content(10**9))
    took["status, one study more"] = dvc(work, "status")
    took["add of stage 04 with it"] = dvc(work, "add", "results/ct/04_resample")
    took["push of it"] = dvc(work, "push")
    shutil.rmtree(results / "04_resample")
    took["checkout of stage 04, removed"] = dvc(work, "checkout", "results/ct/04_resample.dvc")
    lines = page(args, load, counts, took, added["04_resample"])
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"{total:,} files", file=sys.stderr)
    shutil.rmtree(work)


def page(
    args: argparse.Namespace,
    load: float,
    counts: dict[str, int],
    took: dict[str, tuple[float, float, float]],
    stage_04: tuple[float, float, float],
) -> list[str]:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    slices = args.studies * args.slices
    share = slices / counts["04_resample"]
    return [
        f"# What DVC carries for {args.studies:,} studies",
        "",
        f"`python benchmarks/dvc_scale.py --work FOLDER --studies {args.studies}`: the real layout of stages 02 to 08 with files of {FILE_BYTES / 1000:.0f} kB, a local folder as remote,",
        f"{args.per_shard} studies per shard; one run. With volumes of real size the bytes decide, which are not measured here.",
        "",
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, dvc {version('dvc')}; load at start {load:.1f}.",
        "",
        "| stage | what | files |",
        "|---|---|--:|",
        *(f"| {stage} | {STAGES[stage]} | {number:,} |" for stage, number in counts.items()),
        f"| together | | {sum(counts.values()):,} |",
        "",
        "| command | wall s | CPU s | peak MiB |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {wall_s:.1f} | {cpu_s:.1f} | {mib:.0f} |" for name, (wall_s, cpu_s, mib) in took.items()),
        "",
        f"Slices of stage 02, {args.slices} a study, would be {slices:,} files more. At what stage 04 costs a file ({stage_04[1]:.0f} CPU s and {stage_04[2]:.0f} MiB for {counts['04_resample']:,}; by proportion, not",
        f"measured) one `add` would take {stage_04[1] * share / 60:.0f} CPU minutes and up to {stage_04[2] * share / 1024:.0f} GiB of memory: a cohort of that size leaves them out (docs/hpc.md).",
    ]


if __name__ == "__main__":
    main()
