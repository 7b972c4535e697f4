"""What DVC has to carry for many studies: files per stage, and seconds to add, push and check them out.

Usage: python benchmarks/dvc_scale.py --work FOLDER [--studies 50000] [--per-shard 200] [--slices 300]

Makes the real layout of stage 04 (a NIfTI per study, a manifest per shard) and of stage 08 (an HDF5 and a manifest per
shard) with tiny files of different content, then times `dvc add`, `dvc push` to a local folder, `dvc status`, and
`dvc checkout` of a removed output, and how much of that one more study costs.
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
STAGES = {
    "02 images": "every slice as DICOM; manifest and audit per shard",
    "02 reports": "manifest and audit per shard",
    "03 convert": "NIfTI per study; manifest per shard",
    "04 resample": "NIfTI per study; manifest per shard",
    "05 sections": "four tables per shard",
    "06 split": "one table",
    "08 features": "HDF5 and manifest per shard",
}


def counts(studies: int, shards: int, slices: int) -> dict[str, int]:
    """Files that DVC tracks per stage (receipts beside them: one small file per job)."""
    return {
        "02 images": studies * slices + 2 * shards,
        "02 reports": 2 * shards,
        "03 convert": studies + shards,
        "04 resample": studies + shards,
        "05 sections": 4 * shards,
        "06 split": 1,
        "08 features": 2 * shards,
    }


def content(number: int) -> bytes:
    return number.to_bytes(8, "little") * (FILE_BYTES // 8)


def write_volumes(folder: Path, studies: int, per_shard: int) -> None:
    for study in range(studies):
        volumes = folder / f"shard-{study // per_shard:03d}" / "volumes"
        if study % per_shard == 0:
            volumes.mkdir(parents=True)
            (volumes.parent / "manifest.parquet").write_bytes(content(10**9 + study))
        (volumes / f"s{study:020x}.nii").write_bytes(content(study))


def write_features(folder: Path, shards: int) -> None:
    for shard in range(shards):
        tokens = folder / "teacher" / f"{shard:012x}" / f"shard-{shard:03d}.h5"
        manifest = folder / f"shard-{shard:03d}" / "manifest.parquet"
        for number, path in enumerate((tokens, manifest), 2):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(number * 10**9 + shard))


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


def timed(work: Path, stage: str, one_more: Path) -> None:
    """Print a row per command for one stage's folder."""
    folder = work / "results" / "ct" / stage
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    row(stage, files, "add", dvc(work, "add", f"results/ct/{stage}"))
    row(stage, files, "push", dvc(work, "push"))
    row(stage, files, "status, nothing changed", dvc(work, "status"))
    one_more.write_bytes(content(4 * 10**9))
    row(stage, files, "add after one more file", dvc(work, "add", f"results/ct/{stage}"))
    row(stage, files, "push after one more file", dvc(work, "push"))
    shutil.rmtree(folder)
    row(stage, files, "checkout of the removed folder", dvc(work, "checkout", f"results/ct/{stage}.dvc"))


def row(stage: str, files: int, command: str, took: tuple[float, float, float]) -> None:
    print(f"| {stage} | {files:,} | {command} | {took[0]:.1f} | {took[1]:.1f} | {took[2]:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="empty folder")
    parser.add_argument("--studies", type=int, default=50_000)
    parser.add_argument("--per-shard", type=int, default=200)
    parser.add_argument("--slices", type=int, default=300, help="slices per study, for the count of stage 02")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True)
    shards = max(1, args.studies // args.per_shard)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, ", end="")
    print(f"dvc {version('dvc')}; load at start {os.getloadavg()[0]:.1f}\n")
    print(f"{args.studies:,} studies, {shards} shards, {args.slices} slices per study\n")
    print("| stage | what | files |\n|---|---|--:|")
    for stage, number in counts(args.studies, shards, args.slices).items():
        print(f"| {stage} | {STAGES[stage]} | {number:,} |")
    print(
        f"\n| stage ({FILE_BYTES / 1000:.0f} kB files) | files | command | wall s | CPU s | peak MiB |\n|---|--:|---|--:|--:|--:|",
        flush=True,
    )
    os.environ["DVC_NO_ANALYTICS"] = "true"
    dvc(work, "init", "--no-scm")
    dvc(work, "config", "core.analytics", "false")
    dvc(work, "remote", "add", "--default", "local", str(work / "remote"))
    volumes = work / "results" / "ct" / "04_resample"
    write_volumes(volumes, args.studies, args.per_shard)
    timed(work, "04_resample", volumes / "shard-000" / "volumes" / "one_more.nii")
    features = work / "results" / "ct" / "08_features"
    write_features(features, shards)
    timed(work, "08_features", features / "teacher" / "one_more.h5")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
