"""What a job costs beside its work, for a shard of scans of real size: starts, Snakemake's share, the receipt's hashing.

Usage: python benchmarks/job_overhead.py --work FOLDER [--studies 2] [--slices 300]

Runs the commands of stages 02 to 05 and `glint receipt`, each as a process of its own, on a few chest scans of 512 × 512
pixels (stage 05: a shard's reports), and counts CPU seconds, its children's included. What a study costs is taken from
them and multiplied to a full shard; what a start costs is measured by itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl
from dag import trivial
from imaging import chest_hu, write_dicom
from scale import report_texts

from glint.formats.manifest import manifest_frame, write_manifest

STUDIES_PER_SHARD = 200
OPTIONS = '{"num_shards": 1}'
RECIPE = '{"config": "0", "code": "0"}'
RESULT = Path(__file__).parent / "results" / "job_overhead.md"


@dataclass(frozen=True)
class Stage:
    """One stage's CPU seconds: what starting costs, what a study costs, what hashing a study's outputs costs."""

    name: str
    start_s: float
    study_s: float
    receipt_start_s: float
    hash_study_s: float
    what: str

    def full(self) -> tuple[float, float, float]:
        """(starts, work, hashing) of a full shard."""
        starts_s = self.start_s + self.receipt_start_s
        return starts_s, self.study_s * STUDIES_PER_SHARD, self.hash_study_s * STUDIES_PER_SHARD


def cpu_s(work: Path, *arguments: object) -> float:
    """CPU seconds of one `glint` command and its children, run in `work`."""
    command = [sys.executable, "-m", "glint", *map(str, arguments)]
    environment = {**os.environ, "GLINT_DEID_KEY_FILE": str(work / "key" / "deid.key"), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"glint {arguments[0]} failed:\n{said[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def least(work: Path, *arguments: object) -> float:
    """The least of three: a start has no work that could differ."""
    return min(cpu_s(work, *arguments) for _ in range(3))


def measured(work: Path, name: str, items: int, what: str, *arguments: object) -> Stage:
    """Run one stage and its receipt; the manifest is the last argument of `--out`."""
    command = str(arguments[0])
    manifest = Path(str(arguments[arguments.index("--out") + 1])).relative_to(work)
    help_of = (command, "images", "--help") if command == "deidentify" else (command, "--help")
    start_s = least(work, *help_of)
    total_s = cpu_s(work, *arguments)
    receipt_start_s = least(work, "receipt", "--help")
    log = f"logs/ct/{manifest.parts[2]}/shard-000.log"
    receipt_s = cpu_s(work, "receipt", "--outputs", manifest, "--log", log, "--recipe", RECIPE)
    found = Stage(
        name=name,
        start_s=start_s,
        study_s=max(0.0, total_s - start_s) / items,
        receipt_start_s=receipt_start_s,
        hash_study_s=max(0.0, receipt_s - receipt_start_s) / items,
        what=what,
    )
    print(found, flush=True)
    return found


def stages(work: Path, studies: int, slices: int) -> list[Stage]:
    index, results = work / "restricted" / "ct" / "01_index", work / "results" / "ct"
    for number in range(studies):
        folder = work / "raw" / f"{number}"
        folder.mkdir(parents=True)
        write_dicom(folder, chest_hu(slices))
    cpu_s(
        work,
        *("index", "images", "--raw", work / "raw", "--out", index / "images", "--create-key", "--config", OPTIONS),
    )
    shard = index / "images" / "shard-000"
    scans = f"{studies} scans of {slices} slices"
    manifests = {
        stage: results / stage / "shard-000" / "manifest.parquet"
        for stage in ("02_deidentify/images", "02_deidentify/reports", "03_convert", "04_resample", "05_sections")
    }
    clean = manifests["02_deidentify/images"]
    found = [
        measured(
            work,
            "02 deidentify images",
            studies,
            scans,
            *("deidentify", "images", "--index", shard, "--raw", work / "raw", "--out", clean),
        )
    ]
    for stage, source in (("03_convert", clean), ("04_resample", manifests["03_convert"])):
        arguments = (stage[3:], "--manifest", source, "--out", manifests[stage])
        found.append(measured(work, stage.replace("_", " "), studies, scans, *arguments))
    accepted = pl.read_parquet(manifests["04_resample"])["status"]
    if (accepted == "ok").sum() != studies:
        raise SystemExit(f"{(accepted == 'ok').sum()} of {studies} scans came through: no measure of a shard's work")
    texts = (report_texts() * STUDIES_PER_SHARD)[:STUDIES_PER_SHARD]
    rows = [
        {"study_id": f"s{number:020x}", "status": "ok", "text": text, "num_replacements": 0}
        for number, text in enumerate(texts)
    ]
    manifests["02_deidentify/reports"].parent.mkdir(parents=True)
    write_manifest(manifests["02_deidentify/reports"], manifest_frame(rows, "deidentify_reports"), "deidentify_reports")
    arguments = ("sections", "--manifest", manifests["02_deidentify/reports"], "--out", manifests["05_sections"])
    return [*found, measured(work, "05 sections", len(texts), f"{len(texts)} reports of the demo", *arguments)]


def table(found: list[Stage], snakemake_s: float) -> list[str]:
    lines = [
        "| stage | measured on | starts, CPU s | work per study, CPU s | a full shard's work, CPU s | starts and Snakemake | with the receipt's hashing |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    sums = [0.0, 0.0, 0.0]
    for stage in found:
        starts_s, work_s, hash_s = stage.full()
        starts_s += snakemake_s
        sums = [sums[0] + starts_s, sums[1] + work_s, sums[2] + hash_s]
        lines.append(
            f"| {stage.name} | {stage.what} | {starts_s:.1f} | {stage.study_s:.3f} | {work_s:.0f} "
            f"| {starts_s / work_s:.1%} | {(starts_s + hash_s) / work_s:.1%} |"
        )
    starts_s, work_s, hash_s = sums
    lines.append(
        f"| together | | {starts_s:.1f} | | {work_s:.0f} | {starts_s / work_s:.1%} | {(starts_s + hash_s) / work_s:.1%} |"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="empty folder, on a disk with 1 GB per study")
    parser.add_argument("--studies", type=int, default=2)
    parser.add_argument("--slices", type=int, default=300)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True)
    load = os.getloadavg()[0]
    jobs = 20
    snakemake_s = max(0.0, trivial("true", jobs).cpu_s - trivial("true", 1).cpu_s) / (jobs - 1)
    found = stages(work, args.studies, args.slices)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    lines = [
        "# What a job costs beside its work",
        "",
        f"`python benchmarks/job_overhead.py --work FOLDER --studies {args.studies} --slices {args.slices}`: the stages' own commands, one process each, on a few scans of",
        f"512 × 512 pixels in 16 bits, uncompressed; a study's CPU seconds times {STUDIES_PER_SHARD} studies make the full shard. Starts: Python, imports and",
        f"arguments of the stage and of its receipt, and Snakemake's own {snakemake_s:.3f} s per job. Shares are of the shard's work.",
        "",
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, snakemake {version('snakemake')}, polars {version('polars')}, "
        f"pydicom {version('pydicom')}; load at start {load:.1f}.",
        "",
        *table(found, snakemake_s),
        "",
        "- One shard's whole way counts, the last row: stage 05 reads 200 reports in less time than Python starts, so its share says what a start is",
        "  beside almost no work. More reports per job would cost the stage its shards (one new report, one shard) to save minutes for 50,000 studies (scale.md).",
        "- Stages 02 to 04 note the SHA-256 of each file as they write it, which is part of their work here; the receipt hashes the rest (manifests, tables).",
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
