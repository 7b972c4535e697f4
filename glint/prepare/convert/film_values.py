"""A film's values and edges, as pure functions: polarity, opening, border, recipe, view and its check.

Every result is uint16 with 0 black (air) and 65535 white (bone). Source: PS3.3 C.7.6.3.1.2, C.11.2, C.11.6.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.convert import FilmConvertConfig
from glint.core.errors import Quarantine
from glint.formats.dicom_film import FilmHeader, Opening

Box = tuple[int, int, int, int]
WHITE = 65535
MIN_OPENING_SHARE = 0.1  # of the film: smaller openings are in other units than pixels, real headers have such
EDGE_SLACK = 2  # pixels; headers count edges from 0 or 1, on or beside the last visible pixel
MIRROR_EDGE = 48  # pixels; symmetry needs no finer look
VIEWS = {
    **dict.fromkeys(("PA", "AP"), None),
    **dict.fromkeys(("LL", "RL", "LATERAL", "LAT", "LLAT", "RLAT"), "lateral"),
    **dict.fromkeys(("LAO", "RAO", "LPO", "RPO", "LLO", "RLO", "OBLIQUE"), "oblique"),
}
WORDED_VIEWS = {"POSTERO_ANTERIOR": "PA", "ANTERO_POSTERIOR": "AP", "POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP"}


def grey_levels(values: NDArray[Any], *, accept_color: bool, tolerance: float) -> NDArray[Any]:
    """A coloured picture (Y, X, 3) as grey (Y, X); a grey one is returned as it is.

    Raises:
        Quarantine: `coloured`, the channels differ by more than `tolerance` of full scale in more than 1 % of pixels.
    """
    if values.ndim == 2:
        return values
    channels = values[..., :3].astype(np.float32)
    full_scale = float(np.iinfo(values.dtype).max)
    spread = float(np.quantile(np.ptp(channels, axis=2), 0.99)) / full_scale
    if spread > tolerance and not accept_color:
        raise Quarantine(
            "coloured", f"channels differ by {spread:.0%} of full scale; convert.cxr.accept_color takes it"
        )
    return np.asarray(channels @ np.array([0.299, 0.587, 0.114], np.float32))  # ITU-R BT.601, as pictures are made grey


def is_inverted(header: FilmHeader) -> tuple[bool, list[str]]:
    """Whether low values are white, and what contradicts it.

    MONOCHROME1 and a Presentation LUT shape INVERSE say the same thing, once (C.8.11.3.1.2): never invert twice.
    """
    white_is_low = header.photometric == "MONOCHROME1"
    expected = "INVERSE" if white_is_low else "IDENTITY"
    contradiction = header.presentation_lut not in ("", expected)
    inverted = white_is_low or header.presentation_lut == "INVERSE"
    return inverted, ["presentation_lut_contradicts_photometric"] if contradiction else []


def opening_box(openings: tuple[Opening, ...], shape_yx: tuple[int, int]) -> tuple[Box, list[Opening], list[str]]:
    """The part of the film that all plausible openings leave visible; those used, and warnings about the others.

    An opening that reaches outside the film or shows less than a tenth of it is in other units (detector
    millimetres), and is left out.
    """
    rows, columns = shape_yx
    y0, y1, x0, x1 = 0, rows, 0, columns
    used: list[Opening] = []
    doubted: list[str] = []
    for opening in openings:
        top, bottom, left, right = opening.box_yx
        if opening.circle is None and (
            min(top, left) < -EDGE_SLACK or bottom > rows + EDGE_SLACK or right > columns + EDGE_SLACK
        ):
            doubted.append(f"{opening.source}_implausible")
            continue
        box = (max(y0, top), min(y1, bottom), max(x0, left), min(x1, right))
        height, width = box[1] - box[0], box[3] - box[2]
        if min(height, width) < 1 or height * width < MIN_OPENING_SHARE * rows * columns:
            doubted.append(f"{opening.source}_implausible")
            continue
        y0, y1, x0, x1 = box
        used.append(opening)
    return (y0, y1, x0, x1), used, doubted


def outside_circles(openings: list[Opening], box: Box) -> NDArray[np.bool_] | None:
    """Pixels of `box` that a round opening hides, or None where there is no round one."""
    circles = [opening.circle for opening in openings if opening.circle is not None]
    if not circles:
        return None
    y0, y1, x0, x1 = box
    y, x = np.ogrid[y0:y1, x0:x1]
    hidden = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    for centre_y, centre_x, radius in circles:
        hidden |= (y - centre_y) ** 2 + (x - centre_x) ** 2 > radius**2
    return hidden


def _empty_run(lines: NDArray[np.bool_]) -> int:
    filled = np.flatnonzero(~lines)
    return int(filled[0]) if filled.size else len(lines)


def border_box(film_YX: NDArray[Any], *, tolerance: float, max_share: float) -> Box:
    """The film without border rows and columns whose values hardly vary: collimation, paper, scanner rim.

    A row is empty when 98 % of its values lie within `tolerance` of the film's range. A border wider than
    `max_share` of the edge is no border, and that side stays as it is.
    """
    low, high = np.percentile(film_YX[::4, ::4], (1, 99))
    allowed = tolerance * max(float(high - low), 1e-9)
    y0, y1, x0, x1 = 0, film_YX.shape[0], 0, film_YX.shape[1]
    for _ in range(2):  # rows are judged without the border columns, and the other way round
        inner = film_YX[y0:y1, x0:x1]
        empty_rows = np.subtract(*np.percentile(inner, (99, 1), axis=1)) <= allowed
        empty_columns = np.subtract(*np.percentile(inner, (99, 1), axis=0)) <= allowed
        top, bottom = _empty_run(empty_rows), _empty_run(empty_rows[::-1])
        left, right = _empty_run(empty_columns), _empty_run(empty_columns[::-1])
        limit_y, limit_x = max_share * film_YX.shape[0], max_share * film_YX.shape[1]
        y0, y1 = y0 + (top if top <= limit_y else 0), y1 - (bottom if bottom <= limit_y else 0)
        x0, x1 = x0 + (left if left <= limit_x else 0), x1 - (right if right <= limit_x else 0)
    return (y0, y1, x0, x1)


def stretch(values_YX: NDArray[Any], hidden_YX: NDArray[np.bool_] | None) -> NDArray[np.uint16]:
    """Recipe `rad_dino`: the range of the visible pixels to 0..65535; hidden ones become black.

    Raises:
        Quarantine: `blank_film`, all visible pixels are equal.
    """
    values = values_YX.astype(np.float64)
    visible = values if hidden_YX is None else values[~hidden_YX]
    if visible.size == 0 or float(visible.min()) == float(visible.max()):
        raise Quarantine("blank_film", "all visible pixels have one value")
    low, high = float(visible.min()), float(visible.max())
    result = np.rint((values.clip(low, high) - low) * (WHITE / (high - low))).astype(np.uint16)
    if hidden_YX is not None:
        result[hidden_YX] = 0
    return result


def equalize(values_YX: NDArray[Any], hidden_YX: NDArray[np.bool_] | None) -> NDArray[np.uint16]:
    """Recipe `mimic_jpg`: 8-bit levels with an equalised histogram, as OpenCV's equalizeHist, on the 16-bit scale.

    MIMIC-CXR-JPG then compresses at quality 95, which is left out: a loss that no reader needs.
    """
    levels = np.rint(stretch(values_YX, hidden_YX) / 257.0).astype(np.uint8)
    counts = np.bincount(levels.ravel() if hidden_YX is None else levels[~hidden_YX], minlength=256)
    cumulative = np.cumsum(counts)
    first = int(counts[np.flatnonzero(counts)[0]])
    table = np.rint((cumulative - first).clip(0) * (255.0 / max(int(cumulative[-1]) - first, 1)))
    result = (table[levels] * 257).astype(np.uint16)
    if hidden_YX is not None:
        result[hidden_YX] = 0
    return result


RECIPES = {"rad_dino": stretch, "mimic_jpg": equalize}


def named_view(text: str) -> str:
    """PA, AP, lateral, oblique, or unknown."""
    word = text.replace(" ", "_").replace("-", "_")
    word = WORDED_VIEWS.get(word, word)
    return VIEWS[word] or word if word in VIEWS else "unknown"


def mirror_correlation(film_YX: NDArray[Any]) -> float:
    """Correlation of the film, thinned, with its mirror image: frontal chests are near symmetric, lateral ones not."""
    rows, columns = (np.rint(np.linspace(0, size - 1, MIRROR_EDGE)).astype(np.intp) for size in film_YX.shape)
    thinned = film_YX[np.ix_(rows, columns)]
    ordered = thinned.ravel().argsort().argsort().reshape(thinned.shape).astype(np.float64)
    if ordered.std() == 0:
        return 0.0
    return float(np.corrcoef(ordered.ravel(), ordered[:, ::-1].ravel())[0, 1])


@dataclass(frozen=True, kw_only=True)
class ViewVerdict:
    """The view by the header, the correlation that was looked at, and what speaks against the header."""

    view: str
    mirror_correlation: float
    warnings: tuple[str, ...]


def check_view(header: FilmHeader | None, film_YX: NDArray[Any], config: FilmConvertConfig) -> ViewVerdict:
    """The header's view, doubted where Patient Orientation or the film's symmetry says otherwise; never changed."""
    view = named_view(header.view) if header else "unknown"
    found = []
    likeness = mirror_correlation(film_YX)
    along_row = header.orientation[0][:1] if header and header.orientation else ""
    frontal = view in ("PA", "AP")
    if (frontal and along_row in ("A", "P", "H", "F")) or (view == "lateral" and along_row in ("L", "R")):
        found.append("view_contradicts_orientation")
    if frontal and along_row == "R":
        found.append("mirrored")
    if header and header.laterality in ("L", "R") and frontal:
        found.append("one_sided")
    if (frontal and likeness < config.mirror_frontal_min) or (
        view == "lateral" and likeness > config.mirror_lateral_max
    ):
        found.append("view_contradicts_symmetry")
    return ViewVerdict(view=view, mirror_correlation=round(likeness, 4), warnings=tuple(found))
