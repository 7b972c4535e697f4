"""The slices of one DICOM series as a volume: geometry from headers, HU from pixels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from glint.core.errors import InputError, Quarantine

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """What a CT slice says about its place and its values; an absent or unusable element is None.

    `position_mm` and `orientation` are LPS (DICOM PS3.3 C.7.6.2); `spacing_mm_yx` is Pixel Spacing, between rows
    first. `slope` and `intercept` turn stored values into `rescale_type` units (PS3.3 C.11.1).
    """

    path: Path
    rows: int
    columns: int
    frames: int
    samples: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm_yx: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    instance_number: int
    deflated: bool


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The `count` finite numbers of an element, or None if it is absent or anything else."""
    try:
        value = dataset.get(keyword)
        values = value if isinstance(value, MultiValue | list) else [value]
        numbers = tuple(float(entry) for entry in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _integer(dataset: Dataset, keyword: str, absent: int) -> int:
    number = _numbers(dataset, keyword, 1)
    return absent if number is None else int(number[0])


def _header(path: Path, dataset: Dataset) -> SliceHeader:
    spacing = _numbers(dataset, "PixelSpacing", 2)
    slope, intercept = _numbers(dataset, "RescaleSlope", 1), _numbers(dataset, "RescaleIntercept", 1)
    return SliceHeader(
        path=path,
        rows=_integer(dataset, "Rows", 0),
        columns=_integer(dataset, "Columns", 0),
        frames=_integer(dataset, "NumberOfFrames", 1),
        samples=_integer(dataset, "SamplesPerPixel", 1),
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        spacing_mm_yx=spacing if spacing and min(spacing) > 0 else None,
        slope=slope[0] if slope and slope[0] != 0 else None,
        intercept=intercept[0] if intercept else None,
        rescale_type=str(dataset.get("RescaleType") or "HU").strip().upper(),
        instance_number=_integer(dataset, "InstanceNumber", 0),
        deflated=dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian,
    )


def _read(path: Path, **options: Any) -> Dataset:
    # pydicom's warnings quote the offending value, which may be an identifier.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, **options)


def read_series_headers(folder: Path | str) -> list[SliceHeader]:
    """Headers of every `*.dcm` file of `folder`, by file name; pixels stay unread.

    Raises:
        InputError: the folder is absent or holds no `*.dcm` file.
        Quarantine: `unreadable_header`, a file is not DICOM or ends within its header.
    """
    paths = sorted(Path(folder).glob("*.dcm"))
    if not paths:
        raise InputError(f"{folder}: no *.dcm files; run the de-identification stage again")
    headers = []
    for number, path in enumerate(paths, 1):
        try:
            headers.append(_header(path, _read(path, stop_before_pixels=True)))
        except Exception as error:  # pydicom raises whatever the bytes provoke
            raise Quarantine(
                "unreadable_header", f"slice file {number} of {len(paths)} is cut off or not DICOM ({_kind(error)})"
            ) from None
    return headers


def _kind(error: Exception) -> str:
    """The class of an error only: its text may quote values of the file."""
    return type(error).__name__


def _slice_hu(header: SliceHeader, slope: float, intercept: float) -> NDArray[Any]:
    """Rescaled values of one slice: int32 where slope and intercept are whole numbers, else float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # pixel_array(path) parses a tenth of what dcmread does, but can't inflate.
        stored: NDArray[Any] = _read(header.path).pixel_array if header.deflated else pixel_array(header.path)
    if stored.shape != (header.rows, header.columns):
        raise ValueError("shape")
    if slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int32) * int(slope) + int(intercept)
    return stored.astype(np.float32) * slope + intercept


def read_volume_hu(headers: Sequence[SliceHeader]) -> NDArray[Any]:
    """HU of slices that are already in order, shape (Z, Y, X), each with its own rescale (PS3.3 C.11.1.1.2).

    Returns:
        int16 where every slope and intercept is a whole number, otherwise float32, unrounded.

    Raises:
        Quarantine: `unreadable_pixels`, a slice is cut off, can't be decoded, or is not Rows × Columns;
            `rescale_absent`; `hu_implausible`, a value does not fit in 16 bits.
    """
    rescales = [(header.slope, header.intercept) for header in headers]
    known = [(slope, intercept) for slope, intercept in rescales if slope is not None and intercept is not None]
    if len(known) < len(rescales):
        raise Quarantine("rescale_absent", "a slice has no rescale slope or intercept: its values are not HU")
    whole = all(number.is_integer() for rescale in known for number in rescale)
    volume = np.empty((len(headers), headers[0].rows, headers[0].columns), np.int16 if whole else np.float32)
    for place, (header, rescale) in enumerate(zip(headers, known, strict=True)):
        try:
            values = _slice_hu(header, *rescale)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever the bytes provoke
            detail = f"slice {place + 1} of {len(headers)} is cut off or can't be decoded ({_kind(error)})"
            raise Quarantine("unreadable_pixels", detail) from None
        if values.min() < INT16.min or values.max() > INT16.max:
            raise Quarantine("hu_implausible", f"slice {place + 1} of {len(headers)} has values beyond 16 bits")
        volume[place] = values
    return volume


def numbered_by_position(headers: Sequence[SliceHeader]) -> bool:
    """Do the instance numbers of ordered slices rise or fall all the way?"""
    steps = np.diff([header.instance_number for header in headers])
    return bool((steps > 0).all() or (steps < 0).all())


def write_renumbered_copy(headers: Sequence[SliceHeader], folder: Path) -> None:
    """Copy ordered slices into `folder`, inflated, with instance numbers 1, 2, … in their order; pixels untouched."""
    for number, header in enumerate(headers, 1):
        dataset = _read(header.path)
        dataset.InstanceNumber = number
        if header.deflated:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number:06d}.dcm")


def lps_to_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """An affine into DICOM's frame (left, posterior, superior) as one into NIfTI's (right, anterior, superior)."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
