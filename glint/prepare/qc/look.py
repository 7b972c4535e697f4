"""Pictures of one study: three planes or the film as PNG, the histogram of values as SVG points."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.grids import WINDOWS_HU

Bytes = NDArray[np.uint8]
HEIGHT = 220  # pixels of a plane on the page
BINS = 96


def _grey(plane: NDArray[Any], low: float, high: float) -> Bytes:
    return np.asarray(np.rint(255 * ((plane.astype(np.float32) - low) / (high - low)).clip(0, 1)), dtype=np.uint8)


def _at_true_proportions(plane: Bytes, spacing_mm: Sequence[float], height: int = HEIGHT) -> Bytes:
    """The nearest voxel for every pixel of a plane that is `height` pixels high; nothing is smoothed over."""
    width = max(1, round(height * plane.shape[1] * spacing_mm[1] / (plane.shape[0] * spacing_mm[0])))
    rows = (np.arange(height) * plane.shape[0] // height).clip(0, plane.shape[0] - 1)
    columns = (np.arange(width) * plane.shape[1] // width).clip(0, plane.shape[1] - 1)
    return np.asarray(plane[np.ix_(rows, columns)])


def three_planes(hu_ZYX: NDArray[Any], spacing_mm: Sequence[float], valid_box: Sequence[int]) -> Bytes:
    """Axial, coronal and sagittal plane through the middle of the scan, (rows, columns) 0 to 255, side by side.

    Shown as a radiologist hangs them: the patient's right on the left, anterior and superior on top; the sagittal
    plane has anterior on the left. Above in the lung window, below in the mediastinal one.
    """
    dz, dy, dx = spacing_mm
    z, y, x = ((valid_box[2 * axis] + valid_box[2 * axis + 1]) // 2 for axis in range(3))
    planes = [
        (hu_ZYX[z, ::-1, ::-1], (dy, dx)),
        (hu_ZYX[::-1, y, ::-1], (dz, dx)),
        (hu_ZYX[::-1, ::-1, x], (dz, dy)),
    ]
    rows = []
    for window in ("lung", "mediastinum"):
        low, high = WINDOWS_HU[window]
        shown = [_at_true_proportions(_grey(plane, low, high), spacing) for plane, spacing in planes]
        gap = np.full((HEIGHT, 4), 255, np.uint8)
        rows.append(np.hstack([shown[0], gap, shown[1], gap, shown[2]]))
    return np.vstack([rows[0], np.full((4, rows[0].shape[1]), 255, np.uint8), rows[1]])


def film(image_YX: NDArray[Any]) -> Bytes:
    """A film between its 0.5 and 99.5 percentiles, at most twice the height of a plane."""
    low, high = np.percentile(image_YX, (0.5, 99.5))
    return _at_true_proportions(_grey(image_YX, float(low), max(float(high), float(low) + 1)), (1, 1), 2 * HEIGHT)


def png(picture_YX: Bytes) -> str:
    """The picture as base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture_YX, mode="L").save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def histogram_points(values: NDArray[Any], low: float, high: float, *, width: int = 240, height: int = 90) -> str:
    """Points of an SVG polygon: logarithm of the count over `low` to `high`, so that rare values show."""
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    tops = height * (1 - np.log1p(counts) / max(1.0, float(np.log1p(counts.max()))))
    x = np.linspace(0, width, BINS + 1)
    outline = [(0.0, float(height))]
    for left, right, top in zip(x[:-1], x[1:], tops, strict=True):
        outline += [(float(left), float(top)), (float(right), float(top))]
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in [*outline, (float(width), float(height))])
