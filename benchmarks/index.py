"""How fast stage 01 reads headers, from folders and from archives.

Usage: python benchmarks/index.py [--slices 2400] [--many 24000] [--work FOLDER]

CPU seconds (user + system), the smallest of several runs, and for two processes wall seconds too: a busy machine spoils
those, so its load is printed beside them. Writes `results/index.md`.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from glint.core.config.index import IndexConfig
from glint.core.ids import Pseudonyms
from glint.prepare.index.images import index_images

ROOT = "1.2.826.0.1.3680043.10.999"
SLICES_PER_STUDY = 200
EDGE = 512
REPEATS = 3


def slice_dataset() -> Dataset:
    """A CT slice of 512 × 512 with some 90 elements, sequences and private blocks, as scanners write."""
    dataset = Dataset()
    values = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
        "PatientName": "Quillfeather^Ottoline",
        "PatientID": "MRN4471902",
        "PatientBirthDate": "19541103",
        "AccessionNumber": "ACC7730041",
        "ReferringPhysicianName": "Brackenbury^Tobias",
        "InstitutionName": "Mercy Hill Hospital",
        "StudyDate": "20210314",
        "AcquisitionDate": "20210314",
        "AcquisitionTime": "101530.120000",
        "SeriesDescription": "CHEST 1.0",
        "BodyPartExamined": "CHEST",
        "ConvolutionKernel": "B30f",
        "SliceThickness": "1.0",
        "AcquisitionNumber": "1",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.7, 0.7],
        "Rows": EDGE,
        "Columns": EDGE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    for number in range(20):
        block = dataset.private_block(0x0019 + 2 * (number % 4), f"MAKER {number % 4}", create=True)
        block.add_new(number, "LO", "value of a private element")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"{ROOT}.7.1"
    dataset.ReferencedImageSequence = Sequence([item, copy.deepcopy(item)])
    noise = np.random.default_rng(1).normal(1024, 40, (EDGE, EDGE)).astype("<u2")
    dataset.PixelData = noise.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def write_cohort(folder: Path, slices: int) -> list[Path]:
    """`slices` files in studies of 200, one in two studies with two kernels in its series."""
    dataset, files = slice_dataset(), []
    for number in range(slices):
        study, place = divmod(number, SLICES_PER_STUDY)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.1.{study}", f"{ROOT}.2.{study}"
        dataset.SOPInstanceUID = f"{ROOT}.3.{number}"
        dataset.InstanceNumber = str(place)
        dataset.ImagePositionPatient = [-179.0, -179.0, f"{place:.1f}"]
        dataset.ConvolutionKernel = "B70f" if study % 2 and place % 2 else "B30f"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / str(study) / f"IM{place:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process and of its children while `work` runs."""
    start = os.times()
    work()
    end = os.times()
    return sum(end[:4]) - sum(start[:4])


def index(raw: Path, out: Path, workers: int = 1) -> None:
    """Stage 01 from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    index_images([raw], out, IndexConfig(num_shards=4), Pseudonyms(b"k" * 32), workers=workers)


def wall_s(command: list[str]) -> float:
    """Wall seconds of a command, its start included."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def pack(files: list[Path], folder: Path, name: str) -> Path:
    """The files in one archive, alone in a folder of its own."""
    target = folder / name.replace(".", "_")
    target.mkdir()
    if name.endswith("zip"):
        mode = zipfile.ZIP_STORED if name.startswith("stored") else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(target / name, "w", mode, compresslevel=1) as out:
            for file in files:
                out.write(file, f"{file.parent.name}/{file.name}")
    else:
        options = {"compresslevel": 1} if name.endswith("gz") else {}
        with tarfile.open(target / name, "w:gz" if name.endswith("gz") else "w", **options) as out:
            for file in files:
                out.add(file, f"{file.parent.name}/{file.name}")
    return target


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=2400, help="files of 0.5 MB")
    parser.add_argument(
        "--many", type=int, default=24_000, help="files of the larger cohort, 12 GB, for two processes by the clock"
    )
    parser.add_argument("--work", type=Path, help="folder on a local disk; default: the system's temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as place:
        folder = Path(place)
        files = write_cohort(folder / "raw", args.slices)
        out = folder / "index"
        plain = min(
            cpu_s(lambda: [pydicom.dcmread(file, stop_before_pixels=True) for file in files]) for _ in range(REPEATS)
        )
        rows = [("pydicom reads the headers, nothing else", plain, args.slices)]
        rows.append(
            (
                "stage 01, one process",
                min(cpu_s(lambda: index(folder / "raw", out)) for _ in range(REPEATS)),
                args.slices,
            )
        )
        again = min(
            cpu_s(
                lambda: index_images([folder / "raw"], out, IndexConfig(num_shards=4), Pseudonyms(b"k" * 32), workers=1)
            )
            for _ in range(REPEATS)
        )
        rows.append(("stage 01 again, nothing changed", again, args.slices))
        few = files[: max(1, args.slices // 8)]
        for name in ("stored.zip", "deflated.zip", "a.tar", "a.tar.gz"):
            target = pack(few, folder, name)
            rows.append(
                (f"stage 01, {name}", min(cpu_s(lambda target=target: index(target, out)) for _ in range(2)), len(few))
            )
            shutil.rmtree(target)
        here = Path(__file__).parent
        code = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import index; index.index(Path(sys.argv[2]), Path(sys.argv[3]), 2)"
        write_cohort(folder / "many", args.many)
        os.sync()
        load = os.getloadavg()[0]
        walls = {}
        for name, count in (("raw", args.slices), ("many", args.many)):
            command = [sys.executable, "-c", code, str(here), str(folder / name), str(out)]
            walls[count] = min(wall_s(command) for _ in range(2))
            rows.append(("stage 01 as a command of two processes, its start included: wall", walls[count], count))
    growth = (args.many - args.slices) / (walls[args.many] - walls[args.slices])
    lines = [
        "# Stage 01: how fast headers are read",
        "",
        f"`python benchmarks/index.py --slices {args.slices}`: CT slices of {EDGE} × {EDGE} (0.5 MB, some 50 elements, two nested items, four private",
        "blocks) in studies of 200, half of them with two kernels in one series; from nothing to the tables, files on local disk and in memory.",
        f"Smallest of {REPEATS} runs (archives: of two). {os.cpu_count()} cores, load {load:.1f} from other work while two processes were timed: where the",
        "load is above the number of cores, wall time says what was left to this run, CPU time what it needs.",
        "",
        "| what | slices | s | ms a slice | slices per second | of pydicom's |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for what, seconds, count in rows:
        share = seconds / count * args.slices / plain
        lines.append(
            f"| {what} | {count} | {seconds:.2f} | {1e3 * seconds / count:.2f} | {count / seconds:,.0f} | {share:.1f} |"
        )
    rate = args.slices / rows[1][1]
    lines += [
        "",
        f"- By the clock two processes read {args.many / walls[args.many]:,.0f} slices a second over {args.many:,} slices, {growth:,.0f} a second beyond their start",
        f"  (from {args.slices:,} to {args.many:,}), under a load of {load:.1f} from other work on {os.cpu_count()} cores; one process reads {rate:,.0f} per CPU second.",
        "- Packed archives must be inflated up to the pixels' end to tell a whole slice from a cut one; members are read in place, never unpacked to disk.",
        f"- {platform.machine()}, Python {platform.python_version()}, pydicom {pydicom.__version__}, polars {polars.__version__}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "index.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
