"""DICOM files: headers for the inventory, whole data sets, and rebuilt files without a past.

Source: DICOM PS3.10 section 7 (preamble, file meta information), PS3.5 section 7 and Annex A (encodings).
"""

import hashlib
import io
import logging
import math
import os
import struct
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from glint.core.errors import Quarantine
from glint.formats.part10 import WORD_BYTES, file_head, swapped_words

# pydicom's warnings quote element values, and values can be identifiers: they must reach no log.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = b"\xe0\x7f\x10\x00"
ITEM, SEQUENCE_DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)

PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
OTHER_PERSONS = (
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord",
    "OperatorsName",
    "RequestingPhysician",
    "ScheduledPerformingPhysicianName",
    "ResponsiblePerson",
)
IDENTIFIERS = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
    "MedicalRecordLocator",
    "ServiceEpisodeID",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "PatientTelephoneNumbers",
    "ReferringPhysicianTelephoneNumbers",
    "PatientAddress",
)
INSTITUTIONS = ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName")
STUDY_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_TAGS: dict[str, int] = {}


@dataclass(frozen=True, kw_only=True)
class InstanceHeader:
    """What the inventory needs of one file; texts are decoded and stripped, absent ones empty.

    `pixels` is `complete`, `truncated` or `absent`, told from lengths without decoding; positions and spacings are in
    mm as the header has them: `position` (x, y, z) LPS, `orientation` six cosines, `pixel_spacing` (row, column).
    """

    file: str
    file_size: int
    header_digest: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    modality: str
    image_type: tuple[str, ...]
    series_description: str
    body_part: str
    species: str
    kernel: str
    burned_in: str
    transfer_syntax: str
    instance_number: int | None
    acquisition_number: int | None
    temporal_position: int | None
    acquisition_time: str
    rows: int | None
    columns: int | None
    num_frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slice_thickness: float | None
    pixels: str
    raw_patient_id: str
    accession: str
    patient_names: tuple[str, ...]
    other_persons: tuple[str, ...]
    identifiers: tuple[str, ...]
    institutions: tuple[str, ...]
    birth_date: str
    study_dates: tuple[str, ...]


def _tag(keyword: str) -> int:
    if keyword not in _TAGS:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(keyword)
        _TAGS[keyword] = tag
    return _TAGS[keyword]


def _text(dataset: Dataset, keyword: str) -> str:
    """The element as stripped text, values joined by a backslash; raw ASCII is decoded here, which is quicker."""
    tag = _tag(keyword)
    element = dataset._dict.get(tag)  # past the public way, which makes a tag of every number and asks twice
    if element is None:
        return ""
    raw = element.value
    if isinstance(raw, bytes) and raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip(" \0")
    value = dataset[tag].value
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue) else [value]  # a person name is iterable too
    return "\\".join(str(part).strip() for part in parts)


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in _text(dataset, keyword).split("\\")) if part)


def _number(dataset: Dataset, keyword: str) -> int | None:
    """A US or IS element as int, or None where absent or not a number."""
    element = dataset._dict.get(_tag(keyword))
    if element is None:
        return None
    raw = element.value
    try:
        if isinstance(raw, bytes) and keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
            return int.from_bytes(raw[:2], "little" if element.is_little_endian else "big") if raw else None
        return int(float(_text(dataset, keyword)))
    except (ValueError, OverflowError):
        return None


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    parts = _texts(dataset, keyword)
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _looks_bare(head: bytes, size: int) -> bool:
    """True for a data set without preamble: it starts in group 0002 or 0008 with a plausible first element."""
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or struct.unpack_from("<I", head, 4)[0] < min(size, 4096)


def looks_like_dicom(head: bytes) -> bool:
    """True where the first 132 bytes or more may start a Part 10 file or a bare data set."""
    return head[128:132] == b"DICM" or _looks_bare(head, 4096)


def is_dicom(path: Path | str) -> bool:
    """True for a Part 10 file or a bare data set, told from the first bytes."""
    with Path(path).open("rb") as handle:
        head = handle.read(132)
        return head[128:] == b"DICM" or _looks_bare(head, os.fstat(handle.fileno()).st_size)


def fragments_complete(handle: BinaryIO, offset: int, size: int) -> bool:
    """Walk the items of encapsulated Pixel Data from `offset` to the sequence delimiter."""
    while offset + 8 <= size:
        handle.seek(offset)
        group, element, length = struct.unpack("<HHI", handle.read(8))
        if (group, element) == SEQUENCE_DELIMITER:
            return True
        if (group, element) != ITEM or length == UNDEFINED_LENGTH:
            return False
        offset += 8 + length
    return False


def _pixel_state(handle: BinaryIO, dataset: Dataset, offset: int, size: int) -> str:
    """`complete`, `truncated` or `absent` for the Pixel Data element that starts at `offset`."""
    handle.seek(offset)
    head = handle.read(12)
    if head[:4] != PIXEL_DATA or len(head) < 8:
        return "absent"
    explicit = head[4:6] in (b"OB", b"OW")
    start = offset + (12 if explicit else 8)
    length = struct.unpack_from("<I", head, 8 if explicit else 4)[0] if start <= size else 0
    if length == UNDEFINED_LENGTH:
        return "complete" if fragments_complete(handle, start, size) else "truncated"
    sizes = [_number(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")]
    rows, columns, bits, samples = (value or 0 for value in sizes)
    expected = rows * columns * (samples or 1) * (_number(dataset, "NumberOfFrames") or 1) * bits // 8
    return "complete" if length >= expected > 0 and start + length <= size else "truncated"


def _persons(dataset: Dataset, keywords: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for keyword in keywords for name in _texts(dataset, keyword)))


def _species(dataset: Dataset) -> str:
    """What the header says the patient is: words, else a code's value; "" for the usual silence."""
    if text := _text(dataset, "PatientSpeciesDescription"):
        return text
    if _tag("PatientSpeciesCodeSequence") not in dataset:
        return ""
    return next((_text(item, "CodeValue") for item in dataset[_tag("PatientSpeciesCodeSequence")].value), "")


def _acquisition_time(dataset: Dataset) -> str:
    """Date and time of acquisition as sortable text, "" where either is absent."""
    day, time = _text(dataset, "AcquisitionDate"), _text(dataset, "AcquisitionTime")
    return _text(dataset, "AcquisitionDateTime") or (f"{day}{time}" if day and time else "")


def _header(dataset: Dataset, file: str, size: int, digest: str, pixels: str) -> InstanceHeader:
    meta = getattr(dataset, "file_meta", Dataset())
    return InstanceHeader(
        file=file,
        file_size=size,
        header_digest=digest,
        sop_class_uid=_text(dataset, "SOPClassUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        modality=_text(dataset, "Modality"),
        image_type=_texts(dataset, "ImageType"),
        series_description=_text(dataset, "SeriesDescription"),
        body_part=_text(dataset, "BodyPartExamined"),
        species=_species(dataset),
        kernel=_text(dataset, "ConvolutionKernel"),
        burned_in=_text(dataset, "BurnedInAnnotation"),
        transfer_syntax=_text(meta, "TransferSyntaxUID"),
        instance_number=_number(dataset, "InstanceNumber"),
        acquisition_number=_number(dataset, "AcquisitionNumber"),
        temporal_position=_number(dataset, "TemporalPositionIdentifier"),
        acquisition_time=_acquisition_time(dataset),
        rows=_number(dataset, "Rows"),
        columns=_number(dataset, "Columns"),
        num_frames=_number(dataset, "NumberOfFrames") or 1,
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=_numbers(dataset, "PixelSpacing", 2),
        slice_thickness=next(iter(_numbers(dataset, "SliceThickness", 1) or ()), None),
        pixels=pixels,
        raw_patient_id=_text(dataset, "PatientID"),
        accession=_text(dataset, "AccessionNumber"),
        patient_names=_persons(dataset, PATIENT_NAMES),
        other_persons=_persons(dataset, OTHER_PERSONS),
        identifiers=_persons(dataset, IDENTIFIERS),
        institutions=_persons(dataset, INSTITUTIONS),
        birth_date=_text(dataset, "PatientBirthDate"),
        study_dates=_persons(dataset, STUDY_DATES),
    )


def read_header(path: Path | str) -> InstanceHeader | None:
    """Read a file up to its Pixel Data; None for a file that is not DICOM (a media directory counts as none).

    Raises:
        Quarantine: `unreadable`, the file claims to be DICOM but can't be parsed.
    """
    with Path(path).open("rb") as handle:
        return parse_header(handle, str(path), os.fstat(handle.fileno()).st_size)


def parse_header(handle: BinaryIO, file: str, size: int) -> InstanceHeader | None:
    """`read_header` of an open file of `size` bytes, named `file`."""
    head = handle.read(132)
    if head[128:] != b"DICM" and not _looks_bare(head, size):
        return None
    handle.seek(0)
    try:
        dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True)
        if not dataset.original_encoding[1]:
            handle.seek(0)
            little = little_endian_bytes(pydicom.dcmread(handle, force=True))
            header = parse_header(io.BytesIO(little), file, len(little))
            return header and replace(header, file_size=size, transfer_syntax=str(ExplicitVRBigEndian))
        offset = handle.tell()
        meta = dataset.file_meta
        if _text(meta, "MediaStorageSOPClassUID") == pydicom.uid.MediaStorageDirectoryStorage:
            return None
        if _text(meta, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            pixels = "complete"  # lengths are hidden in the deflated stream; stage 02 reads it whole
        else:
            pixels = _pixel_state(handle, dataset, offset, size)
        handle.seek(0)
        digest = hashlib.sha256(handle.read(offset)).hexdigest()
        return _header(dataset, file, size, digest, pixels)
    except Quarantine:
        raise
    except Exception as error:  # whatever a broken file provokes in a parser means the same here
        raise Quarantine("unreadable", "the file starts like DICOM but can't be parsed") from error


def read_dataset(content: bytes) -> FileDataset:
    """Parse a whole DICOM file held in memory, with or without preamble; elements stay raw until used.

    A big-endian file is parsed as its little-endian twin, see `little_endian_bytes`.

    Raises:
        Quarantine: `unreadable`; `unsupported_pixels`, big-endian pixels of other than 8 or 16 bits.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    except Exception as error:  # see read_header
        raise Quarantine("unreadable", "the file can't be parsed as DICOM") from error
    if stored_transfer_syntax(dataset) == ExplicitVRBigEndian:
        return pydicom.dcmread(io.BytesIO(little_endian_bytes(dataset)))
    return dataset


def little_endian_bytes(dataset: FileDataset) -> bytes:
    """A big-endian file as explicit VR little endian: every number and every word swapped, bytes (OB, UN) as they are.

    Pixels of 8 bits in OW are pairs in a word and swap like any word, those in OB stay. Source: PS3.5 sections 6.2, 8.1.1, 8.2.

    Raises:
        Quarantine: see `read_dataset`.
    """
    if _number(dataset, "BitsAllocated") not in (8, 16, None):
        raise Quarantine("unsupported_pixels", "big-endian pixels of other than 8 or 16 bits")
    try:
        for element in dataset.iterall():  # which parses every element: pydicom would copy raw ones as they are
            if element.VR in WORD_BYTES and element.value:
                element.value = swapped_words(element.value, WORD_BYTES[element.VR])
        head = file_head(_text(dataset, "SOPClassUID"), _text(dataset, "SOPInstanceUID"), ExplicitVRLittleEndian)
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = False, True
        write_dataset(buffer, dataset)
    except Exception as error:  # see read_header
        raise Quarantine("unreadable", "the file can't be parsed as DICOM") from error
    content: bytes = buffer.getvalue()
    return head + content


def pixel_digest(content: bytes) -> str:
    """SHA-256 of the stored Pixel Data of a whole file, "" where it has none.

    Raises:
        Quarantine: see `read_dataset`.
    """
    dataset = read_dataset(content)
    tag = _tag("PixelData")
    return hashlib.sha256(bytes(dataset.get_item(tag).value)).hexdigest() if tag in dataset else ""


def stored_transfer_syntax(dataset: FileDataset) -> str:
    """The transfer syntax that the bytes have: headers lie about implicit and explicit, or say nothing."""
    implicit, little = dataset.original_encoding
    if not little:
        return str(ExplicitVRBigEndian)
    declared = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    plain = (None, ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
    if declared not in plain:
        return str(declared)
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


def dataset_bytes(dataset: FileDataset, *, transfer_syntax: str) -> bytes:
    """A Part 10 file with a zeroed preamble and file meta information made afresh from `dataset`.

    Elements that were never parsed are copied as they are, which is quick: the caller has made sure that they are
    ASCII, so that they are right in any character set, and that `transfer_syntax` is the one they were stored in.
    """
    implicit = transfer_syntax == ImplicitVRLittleEndian
    dataset.set_original_encoding(implicit, True, dataset._character_set)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_dataset(buffer, dataset)
    head = file_head(_text(dataset, "SOPClassUID"), _text(dataset, "SOPInstanceUID"), transfer_syntax)
    content: bytes = buffer.getvalue()
    return head + content
