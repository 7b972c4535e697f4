"""The slices of one DICOM series as a volume: geometry from headers, HU from pixels."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels, pixel_array
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from glint.core.errors import InputError, Quarantine
from glint.formats.dicom import PIXEL_DATA, fragments_complete
from glint.formats.dicom_elements import Elements, integer_of, numbers_of, text_of
from glint.formats.plain_header import HEAD_BYTES, PlainHeader, plain_header

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
class NativePixels:
    """Where uncompressed little-endian 16-bit pixels lie in their file (bytes), and how many of the bits count."""

    offset: int
    bits_stored: int
    signed: bool


@dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """What a CT slice says about its place and its values; an absent or unusable element is None.

    `position_mm` and `orientation` are LPS (DICOM PS3.3 C.7.6.2); `spacing_mm_yx` is Pixel Spacing, between rows
    first. `slope` and `intercept` turn stored values into `rescale_type` units (PS3.3 C.11.1). `frame` counts from 0
    within a multi-frame file whose frames state their own geometry, else None. `padding` is the range of stored
    values that stand for no measurement (PS3.3 C.7.5.1.1.2). `native` is None where the pixels need a decoder.
    `patient`, `study` and `series` are pseudonyms.
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
    native: NativePixels | None
    instance_number: int
    deflated: bool
    patient: str
    study: str
    series: str
    frame_of_reference: str


def _first_item(dataset: Dataset, keyword: str) -> Dataset:
    return (dataset.get(keyword) or [Dataset()])[0]


def _padding(dataset: Elements) -> tuple[float, float] | None:
    value, limit = (numbers_of(dataset, f"PixelPadding{end}", 1) for end in ("Value", "RangeLimit"))
    if value is None:
        return None
    ends = [value[0], (limit or value)[0]]
    if integer_of(dataset, "PixelRepresentation", 0) == 1:  # some writers encode -2000 as unsigned
        ends = [end - 2**16 if end > INT16.max else end for end in ends]
    return min(ends), max(ends)


def _native_pixels(elements: Elements, start: int, length: int, size: int) -> NativePixels | None:
    """Where the pixels lie, `length` bytes from `start` in a file of `size` bytes; None sends them to pydicom."""
    rows, columns, samples, frames, allocated, stored = (
        integer_of(elements, keyword, absent)
        for keyword, absent in (
            ("Rows", 0), ("Columns", 0), ("SamplesPerPixel", 1), ("NumberOfFrames", 1), ("BitsAllocated", 0),
            ("BitsStored", 0),
        )
    )  # fmt: skip
    complete = length == 2 * rows * columns and start + length <= size
    if not complete or (samples, frames, allocated) != (1, 1, 16) or not 1 <= stored <= 16:
        return None
    signed = integer_of(elements, "PixelRepresentation", -1)
    return NativePixels(offset=start, bits_stored=stored, signed=signed == 1) if signed in (0, 1) else None


def _pixels_of_dataset(handle: BinaryIO, dataset: Dataset) -> NativePixels | None:
    """`_native_pixels` of what pydicom has read, `handle` standing at the pixels' element.

    Raises:
        EOFError: they are compressed and end early; decoders may spin on such for seconds.
    """
    start = handle.tell()
    head = handle.read(12)
    size = os.fstat(handle.fileno()).st_size
    if head == PIXEL_DATA + b"OB\0\0" + b"\xff" * 4 and not fragments_complete(handle, start + 12, size):
        raise EOFError
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian) or len(head) < 12 or head[:4] != PIXEL_DATA:
        return None
    explicit = head[4:6] in (b"OW", b"OB")
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "little")
    return _native_pixels(dataset, start + (12 if explicit else 8), length, size)


def _header(
    path: Path,
    dataset: Elements,
    frame: int | None = None,
    *,
    native: NativePixels | None = None,
    deflated: bool = False,
) -> SliceHeader:
    """The header of a slice, or of one frame: what a functional group says comes before the data set's own."""
    place, plane, pixel, values = (_frame_group(dataset, frame, f"{group}Sequence") for group in FUNCTIONAL_GROUPS)
    spacing = numbers_of(pixel, "PixelSpacing", 2)
    slope, intercept = numbers_of(values, "RescaleSlope", 1), numbers_of(values, "RescaleIntercept", 1)
    return SliceHeader(
        path=path,
        frame=frame,
        rows=integer_of(dataset, "Rows", 0),
        columns=integer_of(dataset, "Columns", 0),
        frames=integer_of(dataset, "NumberOfFrames", 1),
        samples=integer_of(dataset, "SamplesPerPixel", 1),
        position_mm=numbers_of(place, "ImagePositionPatient", 3),
        orientation=numbers_of(plane, "ImageOrientationPatient", 6),
        spacing_mm_yx=spacing if spacing and min(spacing) > 0 else None,
        slope=slope[0] if slope and slope[0] != 0 else None,
        intercept=intercept[0] if intercept else None,
        rescale_type=(text_of(values, "RescaleType") or "HU").upper(),
        padding=_padding(dataset),
        native=native,
        instance_number=integer_of(dataset, "InstanceNumber", 0) if frame is None else frame + 1,
        deflated=deflated,
        patient=text_of(dataset, "PatientID"),
        study=text_of(dataset, "StudyInstanceUID"),
        series=text_of(dataset, "SeriesInstanceUID"),
        frame_of_reference=text_of(dataset, "FrameOfReferenceUID"),
    )


def _frame_group(dataset: Elements, frame: int | None, group: str) -> Elements:
    """One functional group of a frame: its own, else the shared one (PS3.3 C.7.6.16). A plain slice has all inline."""
    if frame is None or isinstance(dataset, PlainHeader):
        return dataset
    own = _first_item(dataset.PerFrameFunctionalGroupsSequence[frame], group)
    return own or _first_item(_first_item(dataset, "SharedFunctionalGroupsSequence"), group)


def _headers(path: Path) -> list[SliceHeader]:
    with path.open("rb", buffering=0) as handle:
        plain = plain_header(handle.read(HEAD_BYTES))
        if plain is not None:
            size = os.fstat(handle.fileno()).st_size
            return [_header(path, plain, native=_native_pixels(plain, plain.pixels_start, plain.pixels_length, size))]
    with path.open("rb") as handle:
        dataset = _read(handle, stop_before_pixels=True)
        native = _pixels_of_dataset(handle, dataset)
    deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if not groups or len(groups) != integer_of(dataset, "NumberOfFrames", 1):
        return [_header(path, dataset, native=native, deflated=deflated)]
    return [_header(path, dataset, frame, deflated=deflated) for frame in range(len(groups))]


def _read(source: Path | BinaryIO, **options: Any) -> Dataset:
    # pydicom's warnings quote the offending value, which may be an identifier.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(source, **options)


def read_series_headers(folder: Path | str) -> list[SliceHeader]:
    """Headers of every slice in the `*.dcm` files of `folder`, by file name and frame; pixels stay unread.

    Raises:
        InputError: the folder is absent or holds no `*.dcm` file.
        Quarantine: `unreadable_header`, a file is not DICOM or ends within its header.
    """
    paths = sorted(Path(folder).glob("*.dcm"))
    if not paths:
        raise InputError(f"{folder}: no *.dcm files; run the de-identification stage again")
    return slice_headers(paths)


def slice_headers(paths: Sequence[Path]) -> list[SliceHeader]:
    """Headers of every slice in the files, in their order and by frame; pixels stay unread.

    Raises:
        Quarantine: `unreadable_header`, a file is not DICOM or ends within its header.
    """
    headers: list[SliceHeader] = []
    for number, path in enumerate(paths, 1):
        try:
            headers.extend(_headers(path))
        except Exception as error:  # pydicom raises whatever the bytes provoke
            raise Quarantine(
                "unreadable_header", f"slice file {number} of {len(paths)} is cut off or not DICOM ({_kind(error)})"
            ) from None
    return headers


def _kind(error: Exception) -> str:
    """The class of an error only: its text may quote values of the file."""
    return type(error).__name__


def _stored_slices(headers: Sequence[SliceHeader]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Place in `headers` and stored values of each slice, valid until the next; a multi-frame file is opened once.

    Raises:
        Quarantine: `unreadable_pixels`.
    """
    scratch = np.empty((headers[0].rows, headers[0].columns), np.uint16)
    files: dict[Path, list[int]] = {}
    for place, header in enumerate(headers):
        files.setdefault(header.path, []).append(place)
    for path, places in files.items():
        place = places[0]
        try:
            for place, stored in zip(places, _pixels(path, [headers[place] for place in places], scratch), strict=True):
                if stored.shape != (headers[place].rows, headers[place].columns):
                    raise ValueError("shape")
                yield place, stored
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever the bytes provoke
            detail = f"slice {place + 1} of {len(headers)} is cut off or can't be decoded ({_kind(error)})"
            raise Quarantine("unreadable_pixels", detail) from None


def _pixels(path: Path, headers: Sequence[SliceHeader], scratch_YX: NDArray[np.uint16]) -> Iterator[NDArray[Any]]:
    native = headers[0].native
    if native is None or scratch_YX.shape != (headers[0].rows, headers[0].columns):
        yield from _decoded(path, headers)
        return
    with path.open("rb", buffering=0) as handle:
        handle.seek(native.offset)
        if handle.readinto(scratch_YX.data.cast("B")) != scratch_YX.nbytes:
            raise EOFError
    stored = scratch_YX.view("<i2" if native.signed else "<u2")
    if native.bits_stored < 16:  # what lies above the stored bits means nothing (PS3.5 section 8.1.1)
        np.left_shift(stored, 16 - native.bits_stored, out=stored)
        np.right_shift(stored, 16 - native.bits_stored, out=stored)
    yield stored


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


def _shifted(stored: NDArray[Any], slope: float, intercept: float, out: NDArray[Any]) -> bool:
    """Fill `out` where the rescale only shifts 16 bits and every value stays within them; false leaves it as it is."""
    if out.dtype != np.int16 or stored.dtype not in (np.int16, np.uint16) or slope != 1:
        return False
    low, high = int(stored.min()) + intercept, int(stored.max()) + intercept
    if low < INT16.min or high > INT16.max:
        return False
    # Modulo 2^16, signed and unsigned are added alike.
    np.add(stored.view(np.uint16), np.uint16(int(intercept) % 2**16), out=out.view(np.uint16))
    return True


def read_volume_hu(
    headers: Sequence[SliceHeader], *, look: Callable[[int, NDArray[Any]], None] | None = None
) -> NDArray[Any]:
    """HU of slices that are already in order, shape (Z, Y, X), each with its own rescale (PS3.3 C.11.1.1.2).

    Declared padding beyond 16 bits is held at their limit; everything else is as it was measured. `look` is shown the place
    and HU of each slice while it is in the processor's cache, where sums over it cost a part of what they do later.

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
        if not _shifted(stored, *known[place], out=volume[place]):
            values = _hu(stored, *known[place])
            if values.min() < INT16.min or values.max() > INT16.max:
                low, high = headers[place].padding or (np.inf, -np.inf)
                values[(stored >= low) & (stored <= high)] = INT16.min
                if values.min() < INT16.min or values.max() > INT16.max:
                    raise Quarantine("hu_implausible", f"slice {place + 1} of {len(headers)} has values beyond 16 bits")
            volume[place] = values
        if look is not None:
            look(place, volume[place])
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
