"""What a person should look at before trusting a volume: each doubt is one short sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.prepare.convert.plausible_hu import lung_fraction

LUNG_HU = (-970, -600)
THICK_VOXELS = 3  # lung goes on inwards; a table or a skin fold that the face grazes does not
CUT_LUNG_CM2 = 6.0  # more lung than this on the last plane: the lung goes on beyond it
LITTLE_LUNG = 0.05  # of the body: real chests have 0.1 to 0.5, real abdomens up to 0.03
FEW_SLICES = 40  # of the scan; a chest of 30 cm at 5 mm has 60
ANISOTROPIC = 4.0  # slice distance over pixel edge of the scan
METAL_SHARE = 1e-5  # of the scan's voxels at the upper clip limit
MUCH_PADDING = 0.4  # share of the grid
FACES = (("inferior", "superior"), ("posterior", "anterior"), ("left", "right"))


def _lung_of_plane(plane: NDArray[Any]) -> NDArray[np.bool_]:
    """Lung on a plane: aerated regions that the body encloses, but for thin rims.

    What reaches the picture's edge is air or the table's foam, which has lung's HU. A lung cut on two sides at once
    reaches it as well, and is seen on the face where the body encloses it.
    Skin and bronchial walls have lung's HU by partial volume; an opening by 3 x 3 voxels removes them.
    """
    regions, count = ndimage.label(plane < LUNG_HU[1])
    for region in range(1, count + 1):
        inside = regions == region
        if inside[[0, -1]].any() or inside[:, [0, -1]].any():
            regions[inside] = 0
    lung = (regions > 0) & (plane > LUNG_HU[0])
    return np.asarray(ndimage.binary_opening(lung, np.ones((3, 3))))


def cut_lungs(hu_ZYX: NDArray[Any], spacing_mm: Sequence[float], valid_box: Sequence[int]) -> list[str]:
    """Faces of the grid or of the scan on which lung still stands, as sentences."""
    z0, z1, y0, y1, x0, x1 = valid_box
    scan = hu_ZYX[z0:z1, y0:y1, x0:x1]
    found = []
    for axis in range(3):
        plane_mm = [edge for other, edge in enumerate(spacing_mm) if other != axis]
        for side, name in enumerate(FACES[axis]):
            inward = min(THICK_VOXELS, scan.shape[axis] - 1)
            planes = [np.take(scan, -1 - depth if side else depth, axis=axis) for depth in (0, inward)]
            lung = _lung_of_plane(planes[0]) & _lung_of_plane(planes[1])
            area_cm2 = float(lung.sum() * plane_mm[0] * plane_mm[1] / 100)
            if area_cm2 > CUT_LUNG_CM2:
                at_grid = valid_box[2 * axis + side] == side * hu_ZYX.shape[axis]
                where = "the grid cuts the lungs" if at_grid else "the lungs reach the scan's end"
                found.append(f"{where} ({name}, {area_cm2:.0f} cm²)")
    return found


def doubts(
    hu_ZYX: NDArray[Any],
    spacing_mm: Sequence[float],
    valid_box: Sequence[int],
    *,
    scan_shape_zyx: Sequence[int] | None,
    scan_spacing_mm: Sequence[float] | None,
    clip_high_hu: float,
) -> list[str]:
    """All doubts about one volume on the model's grid; `scan_*` are those of stage 03, None where unknown."""
    z0, z1, y0, y1, x0, x1 = valid_box
    inside = hu_ZYX[z0:z1, y0:y1, x0:x1]
    if inside.size == 0:
        return ["the scan and the grid don't meet"]
    found = cut_lungs(hu_ZYX, spacing_mm, valid_box)
    lung = lung_fraction(inside)  # within the body: noisy air and a table's foam have lung's HU too
    if lung < LITTLE_LUNG:
        found.append(f"hardly any lung ({100 * lung:.1f} % of the body)")
    if scan_shape_zyx is not None and scan_shape_zyx[0] < FEW_SLICES:
        found.append(f"few slices ({scan_shape_zyx[0]})")
    if scan_spacing_mm is not None and scan_spacing_mm[0] > ANISOTROPIC * min(scan_spacing_mm[1:]):
        found.append(f"anisotropic ({scan_spacing_mm[0]:.1f} mm slices of {min(scan_spacing_mm[1:]):.2f} mm pixels)")
    metal = int((inside >= clip_high_hu).sum())
    if metal > METAL_SHARE * inside.size:
        found.append(f"metal clipped at {clip_high_hu:.0f} HU ({metal} voxels)")
    padding = 1 - inside.size / hu_ZYX.size
    if padding > MUCH_PADDING:
        found.append(f"{100 * padding:.0f} % of the grid is padding")
    return found
