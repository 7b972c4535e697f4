"""One projection X-ray from DICOM: its pixels after modality and VOI transformation, and what its header says of it.

Source: PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3 (photometric interpretation), C.7.6.11 (shutter),
C.8.7.3 (collimator), C.8.7.1 and C.8.11.5 (spacing, magnification, view).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

from glint.core.errors import Quarantine

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
SHAPES = {"RECTANGULAR", "CIRCULAR", "POLYGONAL"}
EDGES = ("UpperHorizontalEdge", "LowerHorizontalEdge", "LeftVerticalEdge", "RightVerticalEdge")
# CID 4010, SNOMED-RT and SNOMED-CT
VIEW_CODES = {
    "R-10206": "AP",
    "399348003": "AP",
    "R-10214": "PA",
    "272479007": "PA",
    "399067008": "LATERAL",
    "R-10236": "LL",
    "399173006": "LL",
    "R-10232": "RL",
    "399198007": "RL",
}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a shutter or collimator leaves visible, in pixels counted from 0: rows y0..y1, columns x0..x1, half-open.

    `circle` is (centre row, centre column, radius) where the opening is round.
    """

    source: str
    box_yx: tuple[int, int, int, int]
    circle: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class FilmHeader:
    """What stage 03 needs of a film's header; absent or unusable elements are empty or None.

    `spacing_mm_yx` is the pixel in the patient, or at the detector where no magnification is known; `spacing_source`
    says which. `openings` are as the header has them, plausible or not.
    """

    view: str
    laterality: str
    orientation: tuple[str, ...]
    spacing_mm_yx: tuple[float, float] | None
    spacing_source: str
    photometric: str
    presentation_lut: str
    openings: tuple[Opening, ...]
    unreadable_openings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FilmPixels:
    """`values_YX` after the transformations that `voi` names, `padding_YX` marks pixels that were never exposed.

    `values` are (Y, X, 3) for a coloured film; `voi` is lut, LINEAR, LINEAR_EXACT, SIGMOID or none.
    """

    values: NDArray[Any]
    padding_YX: NDArray[np.bool_] | None
    voi: str


def _read(path: Path) -> Dataset:
    # pydicom's warnings quote the offending value, which may be an identifier.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def open_film(path: Path) -> Dataset:
    """Parse one de-identified file.

    Raises:
        Quarantine: `unreadable_header`; `multi_frame`, a cine or tomosynthesis is no film.
    """
    try:
        dataset = _read(path)
        frames = int(dataset.get("NumberOfFrames") or 1)
    except Exception as error:  # pydicom raises whatever the bytes provoke
        raise Quarantine("unreadable_header", f"cut off or not DICOM ({type(error).__name__})") from None
    if frames > 1:
        raise Quarantine("multi_frame", f"{frames} frames; a film has one")
    return dataset


def _floats(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The finite numbers of an element; empty where it is absent or holds anything else."""
    try:
        value = dataset.get(keyword)
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        numbers = tuple(float(entry) for entry in values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return numbers if np.isfinite(numbers).all() else ()


def _word(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return str(value).strip().upper() if value is not None and not isinstance(value, MultiValue) else ""


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Spacing of rows and columns and where it comes from; zero and negative values are none.

    Pixel Spacing is calibrated to the patient; Imager Pixel Spacing is at the detector and is divided by the
    magnification (C.8.7.1.1.3), where that is known.
    """
    calibrated = _floats(dataset, "PixelSpacing")
    if len(calibrated) == 2 and min(calibrated) > 0:
        return (calibrated[0], calibrated[1]), "pixel_spacing"
    imager = _floats(dataset, "ImagerPixelSpacing")
    if len(imager) != 2 or min(imager) <= 0:
        return None, "none"
    factor = _floats(dataset, "EstimatedRadiographicMagnificationFactor")
    if len(factor) == 1 and factor[0] >= 1:
        return (imager[0] / factor[0], imager[1] / factor[0]), "imager_magnified"
    detector, patient = _floats(dataset, "DistanceSourceToDetector"), _floats(dataset, "DistanceSourceToPatient")
    if len(detector) == len(patient) == 1 and 0 < patient[0] <= detector[0]:
        factor_mm = detector[0] / patient[0]
        return (imager[0] / factor_mm, imager[1] / factor_mm), "imager_magnified"
    return (imager[0], imager[1]), "imager"


def _box(rows: Sequence[float], columns: Sequence[float]) -> tuple[int, int, int, int]:
    """Half-open box from positions counted from 1; the pixels of the edges themselves are visible."""
    return (round(min(rows)) - 1, round(max(rows)), round(min(columns)) - 1, round(max(columns)))


def _one_opening(dataset: Dataset, prefix: str, shape: str) -> Opening | None:
    source = f"{prefix.lower()}_{shape.lower()}"
    if shape == "RECTANGULAR":
        edges = [_floats(dataset, prefix + edge) for edge in EDGES]
        if any(len(edge) != 1 for edge in edges):
            return None
        (upper,), (lower,), (left,), (right,) = edges
        return Opening(source=source, box_yx=_box((upper, lower), (left, right)))
    if shape == "CIRCULAR":
        centre = _floats(dataset, f"CenterOfCircular{prefix}")
        radius = _floats(dataset, f"RadiusOfCircular{prefix}")
        if len(centre) != 2 or len(radius) != 1:
            return None
        (y, x), r = centre, radius[0]
        return Opening(source=source, box_yx=_box((y - r, y + r), (x - r, x + r)), circle=(y - 1, x - 1, r))
    vertices = _floats(dataset, f"VerticesOfThePolygonal{prefix}")
    if len(vertices) < 6 or len(vertices) % 2:
        return None
    return Opening(source=source, box_yx=_box(vertices[::2], vertices[1::2]))


def _openings(dataset: Dataset) -> tuple[tuple[Opening, ...], tuple[str, ...]]:
    found, unreadable = [], []
    for prefix in ("Shutter", "Collimator"):
        value = dataset.get(f"{prefix}Shape")
        shapes = value if isinstance(value, MultiValue) else [value] if value else []
        for shape in (str(entry).strip().upper() for entry in shapes):
            opening = _one_opening(dataset, prefix, shape) if shape in SHAPES else None
            if opening is None:
                unreadable.append(prefix.lower())
            else:
                found.append(opening)
    return tuple(found), tuple(unreadable)


def _view(dataset: Dataset) -> str:
    if _word(dataset, "ViewPosition"):
        return _word(dataset, "ViewPosition")
    items = dataset.get("ViewCodeSequence") or []
    codes = [str(item.get("CodeValue", "")).strip() for item in items]
    return next((VIEW_CODES[code] for code in codes if code in VIEW_CODES), "")


def film_header(dataset: Dataset) -> FilmHeader:
    """The header of an opened film."""
    spacing, source = _spacing(dataset)
    openings, unreadable = _openings(dataset)
    orientation = dataset.get("PatientOrientation")
    return FilmHeader(
        view=_view(dataset),
        laterality=_word(dataset, "ImageLaterality") or _word(dataset, "Laterality"),
        orientation=tuple(str(part).upper() for part in orientation) if isinstance(orientation, MultiValue) else (),
        spacing_mm_yx=spacing,
        spacing_source=source,
        photometric=_word(dataset, "PhotometricInterpretation"),
        presentation_lut=_word(dataset, "PresentationLUTShape"),
        openings=openings,
        unreadable_openings=unreadable,
    )


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Pixels of the padding value or range (C.7.5.1.1.2), in stored values."""
    value = _floats(dataset, "PixelPaddingValue")
    if len(value) != 1:
        return None
    limit = _floats(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value[0], limit[0] if len(limit) == 1 else value[0]))
    marked: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return marked if marked.any() and not marked.all() else None


def _window(dataset: Dataset) -> str | None:
    """The function of the first window, or None where there is none that can be applied."""
    centre, width = _floats(dataset, "WindowCenter"), _floats(dataset, "WindowWidth")
    function = _word(dataset, "VOILUTFunction") or "LINEAR"
    narrowest = 1.0 if function == "LINEAR" else np.finfo(float).tiny
    usable = bool(centre) and bool(width) and width[0] >= narrowest
    return function if usable and function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else None


def film_pixels(dataset: Dataset, *, voi: bool) -> FilmPixels:
    """Decode a film, apply the modality LUT or rescale and, if `voi`, its VOI LUT: the sequence first, else the first
    window; polarity is left as stored.

    Raises:
        Quarantine: `unreadable_pixels`, cut off or not decodable; `no_grey_scale`, an interpretation that is neither
            grey nor colour.
    """
    photometric = _word(dataset, "PhotometricInterpretation")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored: NDArray[Any] = dataset.pixel_array
            if photometric == "PALETTE COLOR":
                coloured: NDArray[Any] = apply_color_lut(stored, dataset)
                return FilmPixels(values=coloured, padding_YX=None, voi="none")
            if photometric not in MONOCHROME:
                if stored.ndim != 3:
                    raise Quarantine("no_grey_scale", "the photometric interpretation is neither grey nor colour")
                return FilmPixels(values=stored, padding_YX=None, voi="none")
            values = apply_modality_lut(stored, dataset)
            if not voi:
                used = "none"
            elif dataset.get("VOILUTSequence"):
                # a LUT maps whole numbers; a fractional rescale leads between its entries
                values, used = apply_voi(np.rint(values).astype(np.int32), dataset, index=0), "lut"
            elif (function := _window(dataset)) is not None:
                values, used = apply_windowing(values, dataset, index=0), function
            else:
                used = "none"
    except (Quarantine, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise Quarantine("unreadable_pixels", f"cut off or can't be decoded ({type(error).__name__})") from None
    if values.ndim != 2 or 0 in values.shape:
        raise Quarantine("unreadable_pixels", "the pixels are no single plane")
    return FilmPixels(values=values, padding_YX=_padding(stored, dataset), voi=used)
