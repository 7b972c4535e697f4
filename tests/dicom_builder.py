"""Small, complete CT series for tests: every number and every identifier is chosen by the test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.999"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RESCALE_INTERCEPT_HU = -1024


def gradient_hu(num_slices: int, rows: int, columns: int) -> np.ndarray:
    """int16 (z, y, x) HU volume in which every voxel tells its own place."""
    z, y, x = np.meshgrid(np.arange(num_slices), np.arange(rows), np.arange(columns), indexing="ij")
    return (-1000 + 20 * z + 5 * y + 3 * x).astype(np.int16)


def ct_dataset(**elements: Any) -> Dataset:
    """A header with the identity of one invented patient; `elements` replace keywords (None deletes one)."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "SOMATOM Force",
        "InstitutionName": "Mercy Hill Hospital",
        "PatientName": "Quillfeather^Ottoline",
        "PatientID": "MRN4471902",
        "PatientBirthDate": "19541103",
        "PatientSex": "F",
        "PatientAge": "066Y",
        "AccessionNumber": "ACC7730041",
        "ReferringPhysicianName": "Brackenbury^Tobias",
        "StudyDate": "20210314",
        "SeriesDate": "20210314",
        "AcquisitionDate": "20210314",
        "ContentDate": "20210314",
        "StudyTime": "101500",
        "SeriesTime": "101530",
        "StudyDescription": "CT CHEST",
        "SeriesDescription": "CHEST 1.0",
        "BodyPartExamined": "CHEST",
        "ConvolutionKernel": "B30f",
        "KVP": "120",
        "FrameOfReferenceUID": f"{ROOT}.9.1",
        "SliceThickness": "2.0",
        "PatientPosition": "HFS",
    }
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def write_dataset(
    path: Path, dataset: Dataset, *, transfer_syntax: str = ExplicitVRLittleEndian, preamble: bytes = b"\0" * 128
) -> Path:
    """Write `dataset` with preamble and file meta information."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or f"{ROOT}.0"
    meta.TransferSyntaxUID = transfer_syntax
    file_dataset = FileDataset(str(path), dataset, file_meta=meta, preamble=preamble)
    file_dataset.save_as(path, enforce_file_format=True)
    return path


def write_ct_series(
    folder: Path,
    *,
    num_slices: int = 8,
    rows: int = 24,
    columns: int = 32,
    spacing_mm: tuple[float, float, float] = (2.0, 0.8, 0.9),
    origin_mm: tuple[float, float, float] = (-14.4, -9.6, -100.0),
    orientation: Sequence[float] = AXIAL,
    positions_mm: Sequence[Sequence[float]] | None = None,
    hu_ZYX: np.ndarray | None = None,
    study: int = 1,
    series: int = 1,
    prefix: str = "IM",
    transfer_syntax: str = ExplicitVRLittleEndian,
    preamble: bytes = b"\0" * 128,
    edit: Callable[[Dataset, int], None] | None = None,
    **elements: Any,
) -> list[Path]:
    """Write one CT series as `<folder>/<prefix>NNNN` (no suffix) and return the files in order of position.

    Args:
        spacing_mm: (z, y, x); `origin_mm` is the LPS position of the first voxel of the first slice.
        positions_mm: LPS position of every slice, instead of equal steps along the normal of `orientation`.
        hu_ZYX: HU values; default `gradient_hu`. Stored as unsigned 16 bit with slope 1, intercept -1024.
        study, series: Numbers that make the UIDs `ROOT.1.<study>`, `ROOT.2.<study>.<series>` and `ROOT.3…`.
        edit: Called with each dataset and its index just before it is written.
        elements: Keywords and values for every slice (None deletes the element).
    """
    hu = gradient_hu(num_slices, rows, columns) if hu_ZYX is None else hu_ZYX
    num_slices, rows, columns = hu.shape
    if positions_mm is None:
        normal = np.cross(orientation[:3], orientation[3:])
        positions_mm = [np.asarray(origin_mm) + index * spacing_mm[0] * normal for index in range(num_slices)]
    stored = (hu.astype(np.int32) - RESCALE_INTERCEPT_HU).astype("<u2")
    files = []
    for index in range(num_slices):
        dataset = ct_dataset(
            StudyInstanceUID=f"{ROOT}.1.{study}",
            SeriesInstanceUID=f"{ROOT}.2.{study}.{series}",
            SOPInstanceUID=f"{ROOT}.3.{study}.{series}.{index + 1}",
            StudyID=str(study),
            SeriesNumber=str(series),
            AcquisitionNumber="1",
            InstanceNumber=str(index + 1),
            ImagePositionPatient=[f"{value:.10g}" for value in positions_mm[index]],
            ImageOrientationPatient=[f"{value:.10g}" for value in orientation],
            PixelSpacing=[f"{spacing_mm[1]:.10g}", f"{spacing_mm[2]:.10g}"],
            Rows=rows,
            Columns=columns,
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            BitsAllocated=16,
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=0,
            RescaleIntercept=str(RESCALE_INTERCEPT_HU),
            RescaleSlope="1",
            RescaleType="HU",
            PixelData=stored[index].tobytes(),
        )
        dataset["PixelData"].VR = "OW"
        for keyword, value in elements.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if edit is not None:
            edit(dataset, index)
        path = Path(folder) / f"{prefix}{index + 1:04d}"
        files.append(write_dataset(path, dataset, transfer_syntax=transfer_syntax, preamble=preamble))
    return files


def chest_between_neck_and_belly_hu(num_slices: int = 24, rows: int = 48, columns: int = 64) -> np.ndarray:
    """int16 (z, y, x) HU: a body, two lungs, a heart and a spine whose outlines change from slice to slice."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in (num_slices, rows, columns)), indexing="ij")
    hu = np.full(z.shape, -1000.0)
    hu[(x / (0.85 + 0.08 * z)) ** 2 + (y / (0.75 - 0.06 * z)) ** 2 < 1] = 40
    for side, depth in ((-1, 0.55), (1, 0.5)):
        hu[((x - side * 0.4) / 0.3) ** 2 + ((y + 0.05 * z) / depth) ** 2 + (z / 1.3) ** 2 < 1] = -850
    hu[((x - 0.15) / 0.3) ** 2 + ((y + 0.1) / 0.3) ** 2 + ((z + 0.3) / 0.6) ** 2 < 1] = 55
    hu[(x / 0.12) ** 2 + ((y - 0.5) / 0.12) ** 2 < 1] = 400 + 300 * np.sin(
        6 * z[(x / 0.12) ** 2 + ((y - 0.5) / 0.12) ** 2 < 1]
    )
    return np.rint(hu + 15 * np.sin(4 * x + 2 * z) * np.cos(3 * y - z)).astype(np.int16)
