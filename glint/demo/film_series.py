"""Films as DICOM files: CR and DX with their makers' habits, lead letters, collimators, and truth projected alongside."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from glint.demo.anatomy import Mask
from glint.demo.catalogue import FINDINGS
from glint.demo.film_patient import SPACING_MM, FilmStudy
from glint.demo.headers import Equipment, StudyHeader, file_meta, made_by, uid
from glint.demo.people import Patient, Visitation
from glint.demo.projection import enlarge, line_integrals
from glint.demo.radiography import (
    Display,
    Exposure,
    attenuation_per_mm,
    draw_exposure,
    expose,
    leaf_box,
    processed,
    stored,
)
from glint.demo.series import encoded_dataset, file_bytes, save

COARSE_MM = 3.0
SEEN_MM, SEEN_SHARE = 3.0, 0.12
"""A finding reaches as far on a film as rays cross it over this length, and this share of its thickest place."""
_LETTERS = {
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
}
_SYNTAXES = {"raw": ExplicitVRLittleEndian, "jpeg": JPEGBaseline8Bit, "jpeg2000": JPEG2000Lossless}


@dataclass(kw_only=True)
class WrittenFilm:
    """A film's file and its masks: `bits_YX` has bit k where FINDINGS[k] is seen, on the pixels of the file."""

    file: str
    instance_uid: str
    view: str
    bits_YX: NDArray[np.uint16]
    planted: list[tuple[str, str]] = field(default_factory=list)


def boxes_of(bits_YX: NDArray[np.uint16]) -> list[dict[str, Any]]:
    """A box per finding and connected part: x, y, width and height in pixels of the film, from its first pixel's edge."""
    from scipy.ndimage import find_objects, label

    boxes = []
    for bit, name in enumerate(FINDINGS):
        parts, _ = label(bits_YX >> bit & 1)
        for number, place in enumerate(find_objects(parts), 1):
            if place is None or (parts[place] == number).sum() < 12:
                continue
            rows, columns = place
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            boxes.append({"finding": name, "box_xywh": [int(edge) for edge in box]})
    return boxes


def _project(study: FilmStudy, exposure: Exposure) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Line integral of attenuation and the masks as bits, on the detector's pixels."""
    volume_hu = study.volume_hu_ZYX
    if exposure.view == "LL":
        volume_hu = np.where(study.arms_ZYX, np.float32(-1000), volume_hu)
    fields = np.stack([attenuation_per_mm(volume_hu), *(mask.astype(np.float32) for mask in study.masks.values())])
    coarse = line_integrals(fields, SPACING_MM, exposure.geometry, COARSE_MM)
    rows, columns = (round(size / exposure.system.pixel_mm) for size in exposure.geometry.size_mm)
    attenuation, *thickness = enlarge(coarse, (rows, columns))
    bits = np.zeros((rows, columns), np.uint16)
    for name, crossed_mm in zip(study.masks, thickness, strict=True):
        seen = crossed_mm > max(SEEN_MM, SEEN_SHARE * float(crossed_mm.max()))
        bits |= seen.astype(np.uint16) << np.uint16(FINDINGS.index(name))
    return np.maximum(attenuation, 0), bits


def _marker(rng: np.random.Generator, exposure: Exposure, shape_yx: tuple[int, int]) -> tuple[Mask, tuple[int, int]]:
    """A lead letter on the cassette, beside the head or at the waist: its strokes and the corner where they lie.

    The letter names the side that it lies on; the film is looked at as if the patient faced the reader.
    """
    letter = "L" if exposure.view == "LL" else str(rng.choice(["L", "R"]))
    size = int(rng.integers(3, 5))
    strokes = np.kron(np.array([[c == "1" for c in line] for line in _LETTERS[letter]]), np.ones((size, size), bool))
    y0, y1, x0, x1 = leaf_box(exposure, shape_yx)
    row = y0 + int(rng.integers(8, 22))
    aside = int(rng.integers(8, 26))
    at_left = letter == "R" if exposure.view != "LL" else bool(rng.random() < 0.5)
    column = x0 + aside if at_left else x1 - aside - strokes.shape[1]
    if rng.random() < 0.25:
        row = y1 - strokes.shape[0] - int(rng.integers(8, 22))
    return strokes, (row, column)


def _encode(dataset: Dataset, values: NDArray[Any], syntax: str, sop_class: str) -> None:
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    if syntax == JPEGBaseline8Bit:
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(values).save(content, "JPEG", quality=92)
        dataset.add_new(0x7FE00010, "OB", encapsulate([content.getvalue()]))
        dataset["PixelData"].is_undefined_length = True
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
        return
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OW"
    if syntax != ExplicitVRLittleEndian:
        dataset.file_meta = file_meta(sop_class, "2.25.1")
        dataset.compress(syntax, generate_instance_uid=False)


def _displayed(dataset: Dataset, display: Display, exposure: Exposure) -> None:
    """How the film wants to be shown: a window, a sigmoid or a table (PS3.3 C.11.2)."""
    voi = exposure.system.voi
    if voi in ("window", "sigmoid"):
        dataset.WindowCenter, dataset.WindowWidth = f"{display.centre:g}", f"{display.width:g}"
    if voi == "sigmoid":
        dataset.VOILUTFunction = "SIGMOID"
    if display.table is not None:
        first, bits, entries = display.table
        lut = Dataset()
        lut.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries), first, bits])
        lut.add_new(0x00283003, "LO", "NORMAL")
        lut.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
        dataset.VOILUTSequence = Sequence([lut])


def _geometry(dataset: Dataset, exposure: Exposure, shape_yx: tuple[int, int]) -> None:
    system, geometry = exposure.system, exposure.geometry
    pixel = [f"{system.pixel_mm:g}"] * 2
    if system.spacing in ("both", "imager"):
        dataset.ImagerPixelSpacing = pixel
    if system.spacing in ("both", "pixel"):
        dataset.PixelSpacing = pixel
    if system.storage == "DX":
        dataset.DistanceSourceToDetector = f"{geometry.source_mm:g}"
        dataset.DistanceSourceToPatient = f"{geometry.source_mm - geometry.gap_mm - 230:g}"
    prefix = {"lead_in_header": "Collimator", "shutter": "Shutter"}.get(system.border)
    if prefix:
        y0, y1, x0, x1 = leaf_box(exposure, shape_yx)
        setattr(dataset, f"{prefix}Shape", "RECTANGULAR")
        edges = {"LeftVertical": x0 + 1, "RightVertical": x1, "UpperHorizontal": y0 + 1, "LowerHorizontal": y1}
        for edge, place in edges.items():
            setattr(dataset, f"{prefix}{edge}Edge", str(place))


def _viewed(dataset: Dataset, exposure: Exposure) -> None:
    """The view as the makers tell it: by its element, by a code, or in words alone."""
    named = {"PA": "PA", "AP": "AP", "LL": "LL"}[exposure.view]
    dataset.ViewPosition = named
    dataset.PatientOrientation = ["P", "F"] if exposure.view == "LL" else ["L", "F"]
    dataset.SeriesDescription = {"PA": "Chest PA", "AP": "Chest AP portable", "LL": "Chest lateral"}[exposure.view]
    dataset.ImageLaterality = "U"
    if exposure.system.key == "ge" and exposure.view != "LL":
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = ("R-10214", "SRT") if named == "PA" else ("R-10206", "SRT")
        code.CodeMeaning = "postero-anterior" if named == "PA" else "antero-posterior"
        dataset.ViewCodeSequence = Sequence([code])
        dataset.ViewPosition = ""


def write_film(
    root: Path,
    folder: str,
    seed: int,
    study: FilmStudy,
    header: StudyHeader,
    patient: Patient,
    visit: Visitation,
    rng: np.random.Generator,
    view: str,
    place: int,
    *,
    defect: str | None = None,
) -> WrittenFilm:
    """Expose and write film `place` of a study. A `truncated_file` lacks two thirds, one `for_processing` is raw."""
    exposure = draw_exposure(rng, "LL" if view == "LL" else "AP" if view == "AP" else "PA")
    system = exposure.system
    attenuation, bits = _project(study, exposure)
    shape = (attenuation.shape[0], attenuation.shape[1])
    strokes, (row, column) = _marker(rng, exposure, shape)
    attenuation[row : row + strokes.shape[0], column : column + strokes.shape[1]] += 5.0 * strokes
    y0, y1, x0, x1 = leaf_box(exposure, shape)
    inside = (slice(y0, y1), slice(x0, x1)) if system.border != "none" else (slice(None), slice(None))
    values, display = stored(processed(expose(rng, attenuation, exposure), system), inside, system)
    if system.border == "shutter":
        hidden = np.ones(shape, bool)
        hidden[inside] = False
        values[hidden] = 0 if system.photometric == "MONOCHROME2" else 2**system.bits - 1
    open_bits = np.zeros_like(bits)
    open_bits[inside] = bits[inside]

    own = StudyHeader(base=copy.deepcopy(header.base), study_uid=header.study_uid)
    dataset = own.base
    instance, series = uid(seed, "film", study.number, place), uid(seed, "film series", study.number, place)
    sop_class = ComputedRadiographyImageStorage if system.storage == "CR" else DigitalXRayImageStorageForPresentation
    if defect == "for_processing":
        sop_class = DigitalXRayImageStorageForProcessing
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = sop_class, instance, series
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = system.storage, str(place + 1), "1"
    dataset.ImageType = ["ORIGINAL" if system.storage == "DX" else "DERIVED", "PRIMARY"]
    if system.storage == "DX":
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if system.photometric == "MONOCHROME1" else "IDENTITY"
        dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.KVP = str(exposure.kvp)
    dataset.BurnedInAnnotation = "NO"
    _viewed(dataset, exposure)
    _geometry(dataset, exposure, shape)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, system.photometric
    dataset.Rows, dataset.Columns = shape
    allocated = 8 if values.dtype == np.uint8 else 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, system.bits, system.bits - 1
    dataset.PixelRepresentation = 0
    _displayed(dataset, display, exposure)
    equipment = Equipment(
        manufacturer=system.manufacturer,
        model=exposure.model,
        software=system.software,
        station=system.station,
        private=system.private,
    )
    made_by(own, equipment, patient, visit)
    syntax = _SYNTAXES[system.syntax]
    _encode(dataset, values, syntax, sop_class)
    name = f"{folder}/{_file_name(rng, system.key, patient, place, instance)}"
    content = file_bytes(file_meta(sop_class, instance, syntax), encoded_dataset(dataset))
    save(root / name, content[: len(content) // 3] if defect == "truncated_file" else content)
    planted = [("uid", series), ("uid", instance), *own.planted]
    return WrittenFilm(file=name, instance_uid=instance, view=exposure.view, bits_YX=open_bits, planted=planted)


def _file_name(rng: np.random.Generator, key: str, patient: Patient, place: int, instance_uid: str) -> str:
    """A file name as the maker's export writes it."""
    if key == "fuji":
        return f"{patient.surname.upper()}.CR.{place + 1:04d}.dcm"
    if key in ("ge", "philips"):
        return f"IM{int(rng.integers(10**4, 10**5))}_{place}"
    return f"{instance_uid}.dcm"


def write_film_truth(folder: Path, film: WrittenFilm) -> None:
    """`<instance uid>.png`, 16 bits: bit k of a pixel says FINDINGS[k]; `<instance uid>.json`: a box per finding and part."""
    from PIL import Image

    Image.fromarray(film.bits_YX).save(folder / f"{film.instance_uid}.png", format="PNG", compress_level=6)
    boxes = json.dumps({"view": film.view, "boxes": boxes_of(film.bits_YX)}, indent=1, sort_keys=True)
    (folder / f"{film.instance_uid}.json").write_text(boxes + "\n", encoding="utf-8")
