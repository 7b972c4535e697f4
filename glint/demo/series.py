"""The series of a study as DICOM files: the CT volume, and the scout and dose report that travel with it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)

from glint.demo.anatomy import Floats
from glint.demo.headers import StudyHeader, file_meta, uid
from glint.demo.people import Patient
from glint.demo.scanner import Scan

Stored = NDArray[np.integer[Any]]
_COMPRESSIONS = (JPEGLSLossless, JPEG2000Lossless, RLELossless)
_TILT_DEGREES = 14.0
_PER_SLICE = (0x00080018, 0x00200013, 0x00200032, 0x00200037, 0x00201041, 0x7FE00010)
"""SOP Instance UID, Instance Number, position, orientation, Slice Location, Pixel Data."""


@dataclass(kw_only=True)
class WrittenSeries:
    """Files of a series relative to the hospital's folder, and the identities planted in the first of them."""

    files: list[str] = field(default_factory=list)
    planted: list[tuple[str, str]] = field(default_factory=list)


def encoded_dataset(dataset: Dataset) -> bytes:
    """Elements of `dataset` as Explicit VR Little Endian, without file meta (PS3.5 7.1.2)."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def file_bytes(meta: FileMetaDataset, encoded: bytes) -> bytes:
    """Preamble, prefix, file meta and data set: one DICOM file (PS3.10 7.1)."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_file_meta_info(buffer, meta)
    return bytes(b"\x00" * 128 + b"DICM" + buffer.getvalue() + encoded)


def save(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class _SharedElements:
    """Elements that all slices share, encoded once: encoding them anew would take most of the demo's time."""

    def __init__(self, base: Dataset, varying: tuple[int, ...]) -> None:
        cuts = [0, *sorted(varying), 1 << 32]
        self._tags = cuts[1:-1]
        self._segments = []
        for low, high in itertools.pairwise(cuts):
            part = Dataset()
            part.update({element.tag: element for element in base if low < element.tag < high})
            self._segments.append(encoded_dataset(part))

    def with_own(self, own: Dataset) -> bytes:
        """The shared elements and those of one slice, in the order of their tags."""
        pieces = [self._segments[0]]
        for tag, segment in zip(self._tags, self._segments[1:], strict=True):
            if tag in own:
                element = Dataset()
                element.add(own[tag])
                pieces.append(encoded_dataset(element))
            pieces.append(segment)
        return b"".join(pieces)


def stored_values(volume_hu: Floats, scan: Scan) -> Stored:
    """HU to stored values of the vendor; outside the round field of view the vendor's padding, if it has one."""
    vendor = scan.vendor
    values = np.rint((volume_hu - vendor.stored_intercept) / vendor.slope)
    if vendor.padding is not None:
        _, rows, columns = volume_hu.shape
        y, x = np.ogrid[:rows, :columns]
        radius = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2)
        values[:, radius > columns / 2 - 0.5] = vendor.padding
    return values.astype(np.int16 if vendor.signed else np.uint16)


def _file_name(rng: np.random.Generator, scan: Scan, patient: Patient, place: int, instance_uid: str) -> str:
    """A file name as the vendor's export writes it; `place` says nothing of the slice's height."""
    key = scan.vendor.key
    if key == "siemens":
        return f"{patient.surname.upper()}.CT.THORAX.{place + 1:04d}.IMA"
    if key == "ge":
        return f"i{int(rng.integers(10**6, 10**7))}.CTDC.{place + 1}"
    if key == "philips":
        return f"IM_{place + 1:04d}"
    return f"{instance_uid}.dcm"


def _pixels(image: Dataset, stored: Stored, syntax: str) -> DataElement:
    """Pixel data of one slice described by `image`, compressed without loss where `syntax` asks for it."""
    raw = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    if syntax == ExplicitVRLittleEndian:
        return DataElement(0x7FE00010, "OW", raw)
    image.file_meta = file_meta(CTImageStorage, "2.25.1")
    image.PixelData = raw
    image["PixelData"].VR = "OW"
    image.compress(syntax, generate_instance_uid=False)
    return copy.copy(image["PixelData"])


def _image_module(dataset: Dataset, scan: Scan) -> None:
    vendor = scan.vendor
    _, rows, columns = scan.shape_zyx
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelSpacing = [f"{scan.spacing_mm[1]:g}", f"{scan.spacing_mm[2]:g}"]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, vendor.bits_stored, vendor.bits_stored - 1
    dataset.PixelRepresentation = int(vendor.signed)
    dataset.RescaleIntercept, dataset.RescaleSlope = str(vendor.stored_intercept), str(vendor.slope)
    dataset.RescaleType = "HU"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    if vendor.padding is not None:
        dataset.add_new(0x00280120, "SS", vendor.padding)


def _overlaid(base: Dataset, rows: int, columns: int, comment: str) -> Dataset:
    """`base` with an overlay plane (PS3.3 C.9.2) whose description names the patient."""
    dataset = copy.deepcopy(base)
    dataset.add_new(0x60000010, "US", rows)
    dataset.add_new(0x60000011, "US", columns)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60000022, "LO", comment)
    dataset.add_new(0x60003000, "OW", bytes((rows * columns + 15) // 16 * 2))
    return dataset


def _geometry(scan: Scan, slice_index: int, tilted: bool) -> tuple[list[str], list[str]]:
    """ImagePositionPatient and ImageOrientationPatient of a slice counted from the lowest (PS3.3 C.7.6.2)."""
    x, y, z = scan.origin_lps_mm
    position = [f"{x:g}", f"{y:g}", f"{z + slice_index * scan.spacing_mm[0]:.6g}"]
    if not tilted:
        return position, ["1", "0", "0", "0", "1", "0"]
    angle = np.deg2rad(_TILT_DEGREES)
    return position, ["1", "0", "0", "0", f"{np.cos(angle):.8f}", f"{-np.sin(angle):.8f}"]


def write_volume(
    root: Path,
    folder: str,
    seed: int,
    number: int,
    header: StudyHeader,
    patient: Patient,
    scan: Scan,
    volume_hu_ZYX: Floats,
    rng: np.random.Generator,
    compressed: bool,
    defect: str | None,
) -> WrittenSeries:
    """Write the CT series: one file a slice, file names in no order, order of instances by the vendor's habit."""
    vendor, series_uid = scan.vendor, uid(seed, "series", number)
    syntax = _COMPRESSIONS[int(rng.integers(3))] if compressed else ExplicitVRLittleEndian
    base = copy.deepcopy(header.base)
    base.SOPClassUID = CTImageStorage
    base.SeriesInstanceUID = series_uid
    base.SeriesNumber = "3" if vendor.key == "philips" else "2"
    base.SeriesDescription = f"Thorax {scan.thickness_mm:g} {scan.kernel}"
    base.ImageType = list(vendor.image_type)
    base.AcquisitionNumber = "1"
    _image_module(base, scan)
    if defect == "tilted":
        base.GantryDetectorTilt = f"{_TILT_DEGREES:g}"
    written = WrittenSeries(planted=[("uid", series_uid)])
    stored = stored_values(volume_hu_ZYX, scan)
    slices = stored.shape[0]
    kept = [slices // 2] if defect == "one_slice" else list(range(slices))
    if defect == "missing_slice":
        kept.remove(slices // 2)
    places = rng.permutation(slices)
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    _image_module(image, scan)
    shared = _SharedElements(base, _PER_SLICE)
    for index in kept:
        instance = uid(seed, "instance", number, index)
        own = Dataset()
        own.SOPInstanceUID = instance
        own.InstanceNumber = str((slices - 1 - index if vendor.descending else index) + vendor.first_instance)
        own.ImagePositionPatient, own.ImageOrientationPatient = _geometry(scan, index, defect == "tilted")
        own.SliceLocation = own.ImagePositionPatient[2]
        own.add(_pixels(image, stored[index], syntax))
        encoded = shared.with_own(own)
        if not written.files and rng.random() < 0.3:
            comment = f"ROI by {patient.surname}"
            overlaid = _overlaid(base, stored.shape[1], stored.shape[2], comment)
            encoded = _SharedElements(overlaid, _PER_SLICE).with_own(own)
            written.planted.append(("overlay", comment))
        name = _file_name(rng, scan, patient, int(places[index]), instance)
        save(root / folder / name, file_bytes(file_meta(CTImageStorage, instance, syntax), encoded))
        written.files.append(f"{folder}/{name}")
    if defect == "truncated_file":
        victim = root / written.files[len(written.files) // 2]
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 3])
    return written


def write_scout(
    root: Path, folder: str, seed: int, number: int, header: StudyHeader, scan: Scan, volume_hu_ZYX: Floats
) -> WrittenSeries:
    """Write a localizer: the frontal projection of the volume as one CT image of type LOCALIZER."""
    dataset = copy.deepcopy(header.base)
    instance = uid(seed, "scout", number)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, instance
    dataset.SeriesInstanceUID = uid(seed, "scout series", number)
    dataset.SeriesNumber, dataset.InstanceNumber = "1", "1"
    dataset.SeriesDescription = {"siemens": "Topogram 0.6 T20f", "ge": "Scout"}.get(scan.vendor.key, "Surview")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    _image_module(dataset, scan)
    projection = np.clip(volume_hu_ZYX.mean(axis=1)[::-1], -1000, 1000)
    dataset.Rows, dataset.Columns = projection.shape
    dataset.PixelSpacing = [f"{scan.spacing_mm[0]:g}", f"{scan.spacing_mm[2]:g}"]
    x, y, z = scan.origin_lps_mm
    top = z + (scan.shape_zyx[0] - 1) * scan.spacing_mm[0]
    middle = y + (scan.shape_zyx[1] - 1) / 2 * scan.spacing_mm[1]
    dataset.ImagePositionPatient = [f"{x:g}", f"{middle:.6g}", f"{top:.6g}"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    values = np.rint(projection - scan.vendor.stored_intercept).astype(np.int16 if scan.vendor.signed else np.uint16)
    dataset.add(_pixels(dataset, values, ExplicitVRLittleEndian))
    save(root / folder / "SCOUT", file_bytes(file_meta(CTImageStorage, instance), encoded_dataset(dataset)))
    return WrittenSeries(files=[f"{folder}/SCOUT"])


def write_dose_report(
    root: Path, folder: str, seed: int, number: int, header: StudyHeader, patient: Patient, as_text: bool
) -> WrittenSeries:
    """Write a dose report: a structured report (PS3.3 A.35.8), or the screenshot that older scanners store instead."""
    dataset = copy.deepcopy(header.base)
    instance = uid(seed, "dose", number)
    sop_class = XRayRadiationDoseSRStorage if as_text else SecondaryCaptureImageStorage
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.SeriesInstanceUID = uid(seed, "dose series", number)
    dataset.SeriesNumber, dataset.InstanceNumber = "501", "1"
    written = WrittenSeries(files=[f"{folder}/DOSE.dcm"])
    if as_text:
        text = f"Dose report of {patient.given} {patient.surname}: CTDIvol 6.1 mGy, DLP 214 mGy.cm"
        written.planted.append(("free_text", text))
        dataset.Modality, dataset.SeriesDescription = "SR", "Dose Report"
        dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
        dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
        dataset.ConceptNameCodeSequence = Sequence([_code("113701", "X-Ray Radiation Dose Report")])
        item = Dataset()
        item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
        item.ConceptNameCodeSequence = Sequence([_code("121106", "Comment")])
        dataset.ContentSequence = Sequence([item])
    else:
        dataset.SeriesDescription, dataset.ConversionType = "Patient Protocol", "WSD"
        dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        dataset.BurnedInAnnotation = "YES"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = 64, 128
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.add_new(0x7FE00010, "OB", (np.indices((64, 128)).sum(axis=0) % 7 * 36).astype(np.uint8).tobytes())
    save(root / folder / "DOSE.dcm", file_bytes(file_meta(sop_class, instance), encoded_dataset(dataset)))
    return written


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code
