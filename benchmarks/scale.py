"""Stages 01, 05 and 06 with many studies: seconds, memory, and what one change costs.

Usage: python benchmarks/scale.py --work FOLDER [--studies 50000] [--per-shard 200] [--instances 4] [--keep]

Makes tiny but real DICOM files (2 × 2 pixels, 4 per study) and a table of reports as the demo's radiologist writes them,
then runs the commands as the workflow does, on two processes: first run, nothing changed, one study added, one study
dated anew, one report corrected, one report removed, one study removed. Stage 02 is not measured: its report
manifests are copied from the index as they are, since these reports hold no identity. A cohort of a tenth goes first, so
that the growth of memory can be read. Writes results/scale.md (`--print-only`: prints alone).
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import polars as pl
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from glint.core.config.demo import DemoConfig
from glint.demo.patient import synthesise
from glint.demo.people import make_patient, make_visitation
from glint.demo.radiologist import write_report
from glint.formats.manifest import manifest_frame, write_manifest

ROOT = "1.2.826.0.1.3680043.10.999"
BASE = 10_000_000  # numbers of equal length: the template's bytes are replaced in place
WORKERS = 2
NUM_TEXTS = 40
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
OPTIONS = '{"num_shards": %d}'
SMALLER = 10
"""The cohort that goes first, to compare memory with, has so many times fewer studies."""
RESULT = Path(__file__).parent / "results" / "scale.md"


# --- the simulated archive ------------------------------------------------------------------------------------------


def template() -> bytes:
    """One CT slice as a Part 10 file; the numbers 2…, 3…, 4… of eight digits stand for study, series and slice."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.20000000.40000000"
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{ROOT}.3.20000000.40000000",
        "StudyInstanceUID": f"{ROOT}.1.20000000",
        "SeriesInstanceUID": f"{ROOT}.2.20000000",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "P20000000",
        "PatientName": "Anybody^A20000000",
        "AccessionNumber": "A20000000",
        "StudyDate": "20210314",
        "SeriesDescription": "CHEST 1.0",
        "BodyPartExamined": "CHEST",
        "ConvolutionKernel": "B30f",
        "InstanceNumber": "40000000",
        "ImagePositionPatient": [0, 0, 40000000],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.8, 0.8],
        "Rows": 2,
        "Columns": 2,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": b"\0" * 8,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def study_folder(raw: Path, study: int) -> Path:
    return raw / f"{study // 1000:03d}" / f"{study:06d}"


def write_study(raw: Path, study: int, content: bytes, instances: int, date: bytes = b"20210314") -> None:
    folder = study_folder(raw, study)
    folder.mkdir(parents=True, exist_ok=True)
    own = content.replace(b"20000000", b"%d" % (BASE + study)).replace(b"20210314", date)
    for index in range(instances):
        (folder / f"IM{index}").write_bytes(own.replace(b"40000000", b"%d" % (BASE + index)))


def report_texts() -> list[str]:
    """Reports of the demo's radiologist."""
    config = DemoConfig()
    texts = []
    for number in range(NUM_TEXTS):
        study = synthesise(1, number, config)
        patient = make_patient(1, number)
        visit = make_visitation(1, number, patient)
        texts.append(write_report(1, number, config, patient, visit, study.findings, False, None).text)
    return texts


def write_reports(path: Path, studies: Sequence[int], texts: Sequence[str], changed: dict[int, str]) -> None:
    said = [changed.get(study, texts[study % len(texts)]) for study in studies]
    pl.DataFrame({"accession_number": [f"A{BASE + study}" for study in studies], "report": said}).write_csv(path)


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass
class Used:
    """Seconds, and the peak of the resident memory of all processes together, in MiB."""

    seconds: float = 0.0
    peak_mib: float = 0.0


def resident_mib(sessions: set[int]) -> float:
    """Resident memory of every process of these sessions, shared pages counted once per process."""
    pages = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[3]) in sessions:
            pages += int(fields[21])
    return pages * PAGE_BYTES / 2**20


def measured(commands: Sequence[Sequence[str]]) -> Used:
    """Run commands, two at a time where there are several."""
    sessions: set[int] = set()
    used = Used()

    def one(command: Sequence[str]) -> None:
        child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        sessions.add(child.pid)
        said = child.communicate()[1].decode()
        if child.returncode:
            raise SystemExit(f"{' '.join(command[:5])} failed:\n{said[-2000:]}")

    started = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = [pool.submit(one, command) for command in commands]
        while not all(future.done() for future in waiting):
            used.peak_mib = max(used.peak_mib, resident_mib(sessions))
            time.sleep(0.1)
        for future in waiting:
            future.result()
    used.seconds = time.monotonic() - started
    return used


def glint(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "glint", *map(str, arguments)]


@dataclass
class Round:
    """One step of the benchmark: what each stage took and how many shards' files changed."""

    name: str
    used: dict[str, Used] = field(default_factory=dict)
    image_shards: int = 0
    report_shards: int = 0


@dataclass(frozen=True)
class Bench:
    """One simulated cohort and its workspace."""

    work: Path
    num_shards: int

    @property
    def raw(self) -> Path:
        return self.work / "raw"

    @property
    def index(self) -> Path:
        return self.work / "restricted" / "ct" / "01_index"

    def tables(self, kind: str) -> dict[str, tuple[int, int]]:
        files = (self.index / kind).glob("shard-*/*.parquet")
        return {f"{file.parent.name}/{file.name}": (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}

    def run(self, name: str) -> Round:
        """Index, sections of the shards whose reports changed, split."""
        done = Round(name)
        options = OPTIONS % self.num_shards
        before = {kind: self.tables(kind) for kind in ("images", "reports")}
        images = glint("index", "images", "--raw", self.raw, "--out", self.index / "images", "--workers", WORKERS)
        done.used["01 images"] = measured([[*images, "--create-key", "--config", options]])
        table = ("--table", self.work / "reports.csv", "--out", self.index / "reports")
        reports = glint("index", "reports", "--images", self.index / "images", *table)
        done.used["01 reports"] = measured([[*reports, "--config", options]])
        touched = {kind: self.changed_shards(kind, before[kind]) for kind in before}
        done.image_shards, done.report_shards = len(touched["images"]), len(touched["reports"])
        self.pretend_stage_02(touched)
        results = self.work / "results" / "ct"
        sections = [
            glint(
                *("sections", "--manifest", results / "02_deidentify" / "reports" / shard / "manifest.parquet"),
                *("--out", results / "05_sections" / shard / "manifest.parquet"),
            )
            for shard in sorted(touched["reports"])
        ]
        done.used["05 sections"] = measured(sections)
        manifests = sorted((results / "02_deidentify" / "images").glob("*/manifest.parquet"))
        split = glint("split", "--manifests", *manifests, "--out", results / "06_split" / "manifest.parquet")
        done.used["06 split"] = measured([split])
        print(row(done), flush=True)
        return done

    def changed_shards(self, kind: str, before: dict[str, tuple[int, int]]) -> set[str]:
        after = self.tables(kind)
        return {name.split("/")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    def pretend_stage_02(self, touched: dict[str, set[str]]) -> None:
        """Manifests of stage 02 as they would be, had there been nothing to remove."""
        results = self.work / "results" / "ct" / "02_deidentify"
        nothing = {"input_digest": pl.lit("0"), "params_digest": pl.lit("0")}
        for shard in touched["images"]:
            series = pl.read_parquet(self.index / "images" / shard / "series.parquet")
            columns = ("study_id", "patient_id", "series_id", "kind", "status", "reason")
            frame = series.select(*columns, path=pl.col("series_id"), num_instances="num_instances", **nothing)
            frame = frame.with_columns(input_digest=pl.col("series_id"))
            (results / "images" / shard).mkdir(parents=True, exist_ok=True)
            frame.write_parquet(results / "images" / shard / "manifest.parquet")
        for shard in touched["reports"]:
            reports = pl.read_parquet(self.index / "reports" / shard / "reports.parquet")
            rows = reports.select("study_id", "status", "reason", "text").rows(named=True)
            (results / "reports" / shard).mkdir(parents=True, exist_ok=True)
            frame = manifest_frame([{**row, "num_replacements": 0} for row in rows], "deidentify_reports")
            write_manifest(results / "reports" / shard / "manifest.parquet", frame, "deidentify_reports")


STAGES = ("01 images", "01 reports", "05 sections", "06 split")
HEAD = (
    f"| step | {' | '.join(f'{stage}, s (MiB)' for stage in STAGES)} | image shards touched | report shards touched |"
)


def row(done: Round) -> str:
    cells = [f"{done.used[stage].seconds:.1f} ({done.used[stage].peak_mib:.0f})" for stage in STAGES]
    return f"| {done.name} | {' | '.join(cells)} | {done.image_shards} | {done.report_shards} |"


def machine() -> str:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 2**30
    versions = f"Python {platform.python_version()}, polars {pl.__version__}, pydicom {pydicom.__version__}"
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {versions}, numpy {numpy.__version__}; load at start {load:.1f}"
    )


def rounds(bench: Bench, num_studies: int, instances: int, *, changes: bool) -> list[Round]:
    """Every step on a new cohort; without `changes` its first run alone."""
    content, texts = template(), report_texts()
    started = time.monotonic()
    studies = list(range(num_studies))
    for study in studies:
        write_study(bench.raw, study, content, instances)
    print(f"archive written in {time.monotonic() - started:.0f} s", file=sys.stderr)
    changed: dict[int, str] = {}
    middle, late = num_studies // 2, num_studies // 3

    def add() -> None:
        studies.append(num_studies)
        write_study(bench.raw, num_studies, content, instances)

    def remove() -> None:
        shutil.rmtree(study_folder(bench.raw, studies.pop()))

    steps: list[tuple[str, Callable[[], object]]] = [
        ("first run", lambda: None),
        ("nothing changed", lambda: None),
        ("one study added", add),
        ("one study dated anew", lambda: write_study(bench.raw, middle, content, instances, b"20210405")),
        ("one report corrected", lambda: changed.update({middle: "IMPRESSION: Small pleural effusion."})),
        ("one report removed", lambda: studies.remove(late)),
        ("one study removed", remove),
    ]
    done = []
    for name, change in steps if changes else steps[:1]:
        change()
        write_reports(bench.work / "reports.csv", studies, texts, changed)
        done.append(bench.run(name))
    return done


def total_s(done: Round) -> float:
    return sum(used.seconds for used in done.used.values())


def page(args: argparse.Namespace, device: str, bench: Bench, few: Round, done: list[Round]) -> str:
    """results/scale.md."""
    first, added = done[0], next(step for step in done if step.name == "one study added")
    tables = sum(1 for _ in (bench.work / "restricted").rglob("*.parquet"))
    kept_mib = sum(file.stat().st_size for file in (bench.index / "images" / "headers").rglob("*.parquet")) / 2**20
    accepted = pl.read_parquet(bench.work / "results" / "ct" / "06_split" / "manifest.parquet")
    peaks = [
        f"| {stage} | {few.used[stage].peak_mib:.0f} | {first.used[stage].peak_mib:.0f} "
        f"| {first.used[stage].peak_mib / few.used[stage].peak_mib:.1f} |"
        for stage in STAGES
    ]
    lines = [
        f"# {args.studies:,} studies through stages 01, 05 and 06",
        "",
        f"`python benchmarks/scale.py --work FOLDER --studies {args.studies}`: studies of {args.instances} real DICOM files (2 × 2 pixels, so that headers are what counts), a report each as the",
        f"demo's radiologist writes them, {bench.num_shards} shards, the commands of the workflow on {WORKERS} processes; one run. Stage 02 is not measured. Memory is the peak of all",
        "processes together, shared pages counted once per process.",
        "",
        device,
        "",
        HEAD,
        "|---|" + "--:|" * (len(STAGES) + 2),
        *map(row, done),
        "",
        f"In all {total_s(first):.0f} s for the first run, {total_s(added):.0f} s with one study more. {accepted.height:,} studies have a split at the end.",
        f"{tables:,} tables lie under `restricted/`; the kept headers take {kept_mib:.0f} MiB.",
        "",
        f"| stage | peak MiB, {args.studies // SMALLER:,} studies | {args.studies:,} studies | ratio for {SMALLER} times the studies |",
        "|---|--:|--:|--:|",
        *peaks,
        "",
        "- Stage 01 lists the archive and compares size and time of every file; only new and changed files are opened.",
        "- Stages 01 reports and 06 read the whole table each time. Stage 05 starts a process per shard.",
        f"- Of {args.instances} files a study, not of 300: the first run of real scans is bound by opening their files, a later one by listing them.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="empty folder for the simulated cohort")
    parser.add_argument("--studies", type=int, default=50_000)
    parser.add_argument("--per-shard", type=int, default=200)
    parser.add_argument("--instances", type=int, default=4, help="DICOM files per study")
    parser.add_argument("--keep", action="store_true", help="leave the workspace for other benchmarks")
    parser.add_argument("--print-only", action="store_true", help="a trial: leave results/scale.md as it is")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ["GLINT_DEID_KEY_FILE"] = str(args.work / "key")
    work, device = args.work.resolve(), machine()
    print(HEAD)
    tenth = Bench(work / "tenth", max(1, args.studies // SMALLER // args.per_shard))
    (few,) = rounds(tenth, args.studies // SMALLER, args.instances, changes=False)
    shutil.rmtree(tenth.work)
    bench = Bench(work / "cohort", max(1, args.studies // args.per_shard))
    said = page(args, device, bench, few, rounds(bench, args.studies, args.instances, changes=True))
    print(said)
    if not args.print_only:
        RESULT.write_text(said, encoding="utf-8")
    if not args.keep:
        shutil.rmtree(args.work)


if __name__ == "__main__":
    main()
