"""Diverging rays from a point through a volume onto a flat detector: line integrals, for attenuation and for masks alike.

The slices across the beam are magnified each by its own factor, so that two small matrix products per slice take the
place of tracing rays; on the central ray this equals the sum along the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glint.demo.anatomy import Floats

Beam = Literal["back_to_front", "front_to_back", "right_to_left"]
AXES: dict[Beam, tuple[int, int, bool]] = {
    "back_to_front": (1, 2, True),
    "front_to_back": (1, 2, False),
    "right_to_left": (2, 1, False),
}
"""Array axis along the beam, array axis along the film's columns, and whether the beam runs against the array's order."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where source and detector stand. Lengths in mm; the detector lies `gap_mm` behind the volume's last slice.

    centre_mm: (z, lateral) of the central ray, about the middle of the volume; size_mm: (rows, columns) of the detector.
    """

    beam: Beam
    source_mm: float
    gap_mm: float
    centre_mm: tuple[float, float]
    size_mm: tuple[float, float]


def _linear_weights(places: NDArray[np.float64], size: int) -> Floats:
    """(M, size) weights of linear interpolation at `places`, in pixels; nothing is beyond the outermost half pixel."""
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(size)))
    weights[(places < -0.5) | (places > size - 0.5)] = 0.0
    return weights.astype(np.float32)


def detector_axes_mm(geometry: Geometry, pixel_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of rows (from the head down) and columns on the detector, in mm from the central ray."""
    rows, columns = (round(size / pixel_mm) for size in geometry.size_mm)
    down = ((rows - 1) / 2 - np.arange(rows)) * pixel_mm
    across = (np.arange(columns) - (columns - 1) / 2) * pixel_mm
    return down.astype(np.float64), across.astype(np.float64)


def line_integrals(
    fields_FZYX: Floats, spacing_mm: tuple[float, float, float], geometry: Geometry, pixel_mm: float
) -> Floats:
    """(F, rows, columns): each field integrated along the rays, in its unit times mm. `spacing_mm` is (z, y, x)."""
    along, across, reverse = AXES[geometry.beam]
    depth, breadth = fields_FZYX.shape[along + 1], fields_FZYX.shape[across + 1]
    height = fields_FZYX.shape[1]
    v_mm, u_mm = detector_axes_mm(geometry, pixel_mm)
    total = np.zeros((len(fields_FZYX), len(v_mm), len(u_mm)), np.float32)
    for index in range(depth):
        behind = index if reverse else depth - 1 - index
        distance = geometry.gap_mm + behind * spacing_mm[along]
        magnification = geometry.source_mm / (geometry.source_mm - distance)
        slab = np.take(fields_FZYX, index, axis=along + 1)
        if not slab.any():
            continue
        z = (v_mm / magnification + geometry.centre_mm[0]) / spacing_mm[0] + (height - 1) / 2
        lateral = (u_mm / magnification + geometry.centre_mm[1]) / spacing_mm[across] + (breadth - 1) / 2
        total += _linear_weights(z, height) @ slab @ _linear_weights(lateral, breadth).T
    slant = np.sqrt(1 + (v_mm[:, None] ** 2 + u_mm[None, :] ** 2) / geometry.source_mm**2)
    return np.asarray(total * (spacing_mm[along] * slant), np.float32)


def _cubic_weights(places: NDArray[np.float64], size: int) -> Floats:
    """(M, size) weights of Catmull-Rom interpolation (Keys 1981, a = -1/2); beyond the ends the outermost value is held."""
    weights = np.zeros((len(places), size), np.float32)
    first = np.floor(places).astype(np.intp)
    for offset in (-1, 0, 1, 2):
        t = np.abs(places - first - offset)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        np.add.at(weights, (np.arange(len(places)), np.clip(first + offset, 0, size - 1)), np.where(t <= 1, near, far))
    return weights


def enlarge(image_FYX: Floats, shape_yx: tuple[int, int]) -> Floats:
    """(F, rows, columns) on a finer grid that covers the same area."""
    rows, columns = (
        _cubic_weights((np.arange(out) + 0.5) * size / out - 0.5, size)
        for size, out in zip(image_FYX.shape[1:], shape_yx, strict=True)
    )
    return np.asarray(rows @ image_FYX @ columns.T)
