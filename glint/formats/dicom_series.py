"""The slices of one DICOM series as a volume: geometry from headers, HU from pixels."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import iter_pixels, pixel_array
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from glint.core.errors import InputError, Quarantine

INT16 = np.iinfo(np.int16)
FUNCTIONAL_GROUPS = ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
FRAME_ELEMENTS = (
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
    "NumberOfFrames",
)


@dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """What a CT slice says about its place and its values; an absent or unusable element is None.

    `position_mm` and `orientation` are LPS (DICOM PS3.3 C.7.6.2); `spacing_mm_yx` is Pixel Spacing, between rows
    first. `slope` and `intercept` turn stored values into `rescale_type` units (PS3.3 C.11.1). `frame` counts from 0
    within a multi-frame file whose frames state their own geometry, else None. `padding` is the range of stored
    values that stand for no measurement (PS3.3 C.7.5.1.1.2). `patient`, `study` and `series` are pseudonyms.
    """

    path: Path
    frame: int | None
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
    padding: tuple[float, float] | None
    instance_number: int
    deflated: bool
    patient: str
    study: str
    series: str
    frame_of_reference: str


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


def _first_item(dataset: Dataset, keyword: str) -> Dataset:
    return (dataset.get(keyword) or [Dataset()])[0]


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    value, limit = (_numbers(dataset, f"PixelPadding{end}", 1) for end in ("Value", "RangeLimit"))
    if value is None:
        return None
    ends = [value[0], (limit or value)[0]]
    if _integer(dataset, "PixelRepresentation", 0) == 1:  # some writers encode -2000 as unsigned
        ends = [end - 2**16 if end > INT16.max else end for end in ends]
    return min(ends), max(ends)


def _header(path: Path, dataset: Dataset, frame: int | None = None) -> SliceHeader:
    """The header of a slice, or of one frame: what a functional group says comes before the data set's own."""
    place, plane, pixel, values = (_frame_group(dataset, frame, f"{group}Sequence") for group in FUNCTIONAL_GROUPS)
    spacing = _numbers(pixel, "PixelSpacing", 2)
    slope, intercept = _numbers(values, "RescaleSlope", 1), _numbers(values, "RescaleIntercept", 1)
    return SliceHeader(
        path=path,
        frame=frame,
        rows=_integer(dataset, "Rows", 0),
        columns=_integer(dataset, "Columns", 0),
        frames=_integer(dataset, "NumberOfFrames", 1),
        samples=_integer(dataset, "SamplesPerPixel", 1),
        position_mm=_numbers(place, "ImagePositionPatient", 3),
        orientation=_numbers(plane, "ImageOrientationPatient", 6),
        spacing_mm_yx=spacing if spacing and min(spacing) > 0 else None,
        slope=slope[0] if slope and slope[0] != 0 else None,
        intercept=intercept[0] if intercept else None,
        rescale_type=str(values.get("RescaleType") or "HU").strip().upper(),
        padding=_padding(dataset),
        instance_number=_integer(dataset, "InstanceNumber", 0) if frame is None else frame + 1,
        deflated=dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian,
        patient=str(dataset.get("PatientID") or ""),
        study=str(dataset.get("StudyInstanceUID") or ""),
        series=str(dataset.get("SeriesInstanceUID") or ""),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
    )


def _frame_group(dataset: Dataset, frame: int | None, group: str) -> Dataset:
    """One functional group of a frame: its own, else the shared one (PS3.3 C.7.6.16). A plain slice has all inline."""
    if frame is None:
        return dataset
    own = _first_item(dataset.PerFrameFunctionalGroupsSequence[frame], group)
    return own or _first_item(_first_item(dataset, "SharedFunctionalGroupsSequence"), group)


def _headers(path: Path, dataset: Dataset) -> list[SliceHeader]:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if not groups or len(groups) != _integer(dataset, "NumberOfFrames", 1):
        return [_header(path, dataset)]
    return [_header(path, dataset, frame) for frame in range(len(groups))]


def _read(path: Path, **options: Any) -> Dataset:
    # pydicom's warnings quote the offending value, which may be an identifier.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, **options)


def read_series_headers(folder: Path | str) -> list[SliceHeader]:
    """Headers of every slice in the `*.dcm` files of `folder`, by file name and frame; pixels stay unread.

    Raises:
        InputError: the folder is absent or holds no `*.dcm` file.
        Quarantine: `unreadable_header`, a file is not DICOM or ends within its header.
    """
    paths = sorted(Path(folder).glob("*.dcm"))
    if not paths:
        raise InputError(f"{folder}: no *.dcm files; run the de-identification stage again")
    headers: list[SliceHeader] = []
    for number, path in enumerate(paths, 1):
        try:
            headers.extend(_headers(path, _read(path, stop_before_pixels=True)))
        except Exception as error:  # pydicom raises whatever the bytes provoke
            raise Quarantine(
                "unreadable_header", f"slice file {number} of {len(paths)} is cut off or not DICOM ({_kind(error)})"
            ) from None
    return headers


def _kind(error: Exception) -> str:
    """The class of an error only: its text may quote values of the file."""
    return type(error).__name__


def _stored_slices(headers: Sequence[SliceHeader]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Place in `headers` and stored values of each slice; a multi-frame file is opened once.

    Raises:
        Quarantine: `unreadable_pixels`.
    """
    files: dict[Path, list[int]] = {}
    for place, header in enumerate(headers):
        files.setdefault(header.path, []).append(place)
    for path, places in files.items():
        place = places[0]
        try:
            for place, stored in zip(places, _decoded(path, [headers[place] for place in places]), strict=True):
                if stored.shape != (headers[place].rows, headers[place].columns):
                    raise ValueError("shape")
                yield place, stored
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever the bytes provoke
            detail = f"slice {place + 1} of {len(headers)} is cut off or can't be decoded ({_kind(error)})"
            raise Quarantine("unreadable_pixels", detail) from None


def _decoded(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Given a path, pydicom parses a tenth of what dcmread does, but can't inflate.
        source = _read(path) if headers[0].deflated else path
        frames = [header.frame for header in headers if header.frame is not None]
        if frames:
            yield from iter_pixels(source, indices=frames)
        else:
            yield pixel_array(source)


def _hu(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Rescaled values: int32 where slope and intercept are whole numbers, else float32."""
    if slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int32) * int(slope) + int(intercept)
    return stored.astype(np.float32) * slope + intercept


def read_volume_hu(headers: Sequence[SliceHeader]) -> NDArray[Any]:
    """HU of slices that are already in order, shape (Z, Y, X), each with its own rescale (PS3.3 C.11.1.1.2).

    Declared padding beyond 16 bits is held at their limit; everything else is as it was measured.

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
    for place, stored in _stored_slices(headers):
        values = _hu(stored, *known[place])
        if values.min() < INT16.min or values.max() > INT16.max:
            low, high = headers[place].padding or (np.inf, -np.inf)
            values[(stored >= low) & (stored <= high)] = INT16.min
            if values.min() < INT16.min or values.max() > INT16.max:
                raise Quarantine("hu_implausible", f"slice {place + 1} of {len(headers)} has values beyond 16 bits")
        volume[place] = values
    return volume


def numbered_by_position(headers: Sequence[SliceHeader]) -> bool:
    """Do the instance numbers of ordered slices rise or fall all the way?"""
    steps = np.diff([header.instance_number for header in headers])
    return bool((steps > 0).all() or (steps < 0).all())


def one_rescale(headers: Sequence[SliceHeader]) -> bool:
    """Do all slices share slope and intercept?"""
    return len({(header.slope, header.intercept) for header in headers}) == 1


def write_renumbered_copy(headers: Sequence[SliceHeader], folder: Path) -> None:
    """Copy ordered slices into `folder`, inflated, with instance numbers 1, 2, … in their order; pixels untouched.

    A frame becomes a slice of its own, uncompressed.
    """
    if headers[0].frame is not None:
        _write_frames_as_slices(headers, folder)
        return
    for number, header in enumerate(headers, 1):
        dataset = _read(header.path)
        dataset.InstanceNumber = number
        if header.deflated:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number:06d}.dcm")


def _write_frames_as_slices(headers: Sequence[SliceHeader], folder: Path) -> None:
    sources: dict[Path, Dataset] = {}
    for place, stored in _stored_slices(headers):
        header = headers[place]
        if header.path not in sources:
            sources[header.path] = _without_frames(_read(header.path, stop_before_pixels=True))
        dataset = sources[header.path]
        dataset.SOPInstanceUID = f"2.25.{place + 1}"
        dataset.InstanceNumber = place + 1
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in header.position_mm or ()]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in header.orientation or ()]
        dataset.PixelSpacing = [f"{value:.10g}" for value in header.spacing_mm_yx or ()]
        dataset.RescaleSlope, dataset.RescaleIntercept = header.slope, header.intercept
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{place + 1:06d}.dcm", enforce_file_format=True)


def _without_frames(dataset: Dataset) -> Dataset:
    for keyword in FRAME_ELEMENTS:
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def lps_to_ras(affine: ArrayLike) -> NDArray[np.float64]:
    """An affine into DICOM's frame (left, posterior, superior) as one into NIfTI's (right, anterior, superior)."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
