"""How fast stage 01 reads headers, from folders and from archives.

Usage: python benchmarks/index.py [--slices 1200] [--work FOLDER]

Times are CPU seconds (user + system) of one process, the smallest of several runs: a busy machine spoils wall times.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import shutil
import sys
import tarfile
import tempfile
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


def index(raw: Path, out: Path) -> None:
    """Stage 01 from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    index_images([raw], out, IndexConfig(num_shards=4), Pseudonyms(b"k" * 32), workers=1)


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
    parser.add_argument("--slices", type=int, default=1200, help="files of 0.5 MB")
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
        few = files[: max(1, args.slices // 4)]
        for name in ("stored.zip", "deflated.zip", "a.tar", "a.tar.gz"):
            target = pack(few, folder, name)
            rows.append(
                (f"stage 01, {name}", min(cpu_s(lambda target=target: index(target, out)) for _ in range(2)), len(few))
            )
            shutil.rmtree(target)
        print(
            "| what | slices | CPU s | ms a slice | slices per CPU second | of pydicom's |\n|---|--:|--:|--:|--:|--:|"
        )
        for what, seconds, count in rows:
            print(
                f"| {what} | {count} | {seconds:.2f} | {1e3 * seconds / count:.2f} | {count / seconds:,.0f} | {seconds / count * args.slices / plain:.1f} |"
            )
        rate = args.slices / rows[1][1]
        print(
            f"\nOne process reads {rate:,.0f} slices per CPU second, two cores {2 * rate:,.0f}: no work is shared but the tables."
        )
        print(f"Python {platform.python_version()}, pydicom {pydicom.__version__}, polars {polars.__version__}.")


if __name__ == "__main__":
    sys.exit(main())
