"""A volume onto the grid of the model, with the affine that is true for it.

Array order is the same for every patient, whatever the scanner did: z runs to superior, y to anterior, x to the
patient's right, so the file is RAS+ (index x, y, z). An oblique scan keeps its obliqueness in the affine; nothing is
rotated. Spacing is exactly the target: the grid is laid about the centre of the scan's outer faces, and each voxel
is looked up at its true place, so that no size has to be rounded and no slice is shifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.core.errors import GeometryError
from glint.core.geometry import check_affine, reorient, spacing_mm_zyx
from glint.formats.nifti import stored_affine
from glint.prepare.resample.kernels import apply_weights, axis_weights, sample_places, valid_range

Box = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A volume on the model's grid.

    `volume_ZYX` is int16 HU; `affine` takes index (x, y, z) to RAS mm; `valid_box` is (z0, z1, y0, y1, x0, x1),
    half-open: the voxels whose centres lie within the scan, the others are padding.
    """

    volume_ZYX: NDArray[np.int16]
    affine: NDArray[np.float64]
    valid_box: Box


def valid_mask(valid_box: Sequence[int], grid: Sequence[int]) -> NDArray[np.bool_]:
    """The validity mask (Z, Y, X) that a `valid_box` stands for: true within the scan, false in the padding."""
    mask = np.zeros(tuple(grid), bool)
    z0, z1, y0, y1, x0, x1 = valid_box
    mask[z0:z1, y0:y1, x0:x1] = True
    return mask


def resample_volume(
    volume_ZYX: NDArray[Any],
    affine: ArrayLike,
    *,
    spacing_mm: Sequence[float],
    grid: Sequence[int],
    clip_hu: tuple[float, float] = (-1024.0, 3071.0),
    pad_hu: int = -1024,
    antialias: bool = True,
) -> Resampled:
    """Orient, clip, and resample a volume onto `grid` voxels of exactly `spacing_mm`, cut or padded about its centre.

    Args:
        volume_ZYX: HU, any real type, shape (Z, Y, X), any axis order.
        affine: 4×4, index (x, y, z) → RAS mm.
        spacing_mm: Wanted voxel (z, y, x) after orientation to superior, anterior, right.
        grid: Wanted size (z, y, x).
        clip_hu: HU limits, applied before interpolation.
        pad_hu: Value of voxels outside the scan.
        antialias: Average the axes that shrink; off: plain linear, as some teachers were trained.

    Returns:
        A `Resampled`; every value lies within the range of the clipped input, or is `pad_hu`.

    Raises:
        GeometryError: the array is not 3-D or empty, the affine is none, a spacing or size is not positive.
    """
    if volume_ZYX.ndim != 3 or 0 in volume_ZYX.shape:
        raise GeometryError(f"a volume has three axes and at least one voxel, not {volume_ZYX.shape}")
    if min(spacing_mm) <= 0 or min(grid) < 1:
        raise GeometryError(f"spacing_mm {tuple(spacing_mm)} and grid {tuple(grid)} must be positive")
    oriented, source = reorient(volume_ZYX, check_affine(affine))
    ratios = np.asarray(spacing_mm, dtype=np.float64) / spacing_mm_zyx(source)
    places = [sample_places(n, m, r) for n, m, r in zip(oriented.shape, grid, ratios, strict=True)]
    valid = [valid_range(place, n) for place, n in zip(places, oriented.shape, strict=True)]
    weights = [
        axis_weights(n, place[start:stop], ratio if antialias else 1.0)
        for n, place, (start, stop), ratio in zip(oriented.shape, places, valid, ratios, strict=True)
    ]
    volume = np.full(tuple(grid), pad_hu, np.int16)
    (z0, z1), (y0, y1), (x0, x1) = valid
    apply_weights(oriented, weights, out=volume[z0:z1, y0:y1, x0:x1], limits=clip_hu)
    target = source.copy()
    target[:3, :3] = source[:3, :3] * ratios[::-1]
    target[:3, 3] = source[:3, :3] @ [place[0] for place in reversed(places)] + source[:3, 3]
    return Resampled(volume_ZYX=volume, affine=stored_affine(target), valid_box=(z0, z1, y0, y1, x0, x1))
