"""Are the values Hounsfield units of a chest? Catches what no header tells."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine

TISSUE_HU = (-200, 300)
LUNG_HU = (-950, -600)
BODY_HU = -500  # half-way between air and water
EXAMINED_PIXELS = 128  # per in-plane edge at most: shares need no finer look
EXAMINED_SLICES = 96


def lung_fraction(volume_ZYX: NDArray[Any]) -> float:
    """Share of the body, slice by slice with its cavities, that lies in -950..-600 HU.

    Chest 0.1 to 0.5, abdomen below 0.1, head below 0.03. The volume, (Z, Y, X) in HU, is thinned to at most
    96 × 128 × 128. The body is what is denser than -500 HU and all that it encloses within a slice, table included.
    """
    limits = (EXAMINED_SLICES, EXAMINED_PIXELS, EXAMINED_PIXELS)
    steps = [-(-size // limit) for size, limit in zip(volume_ZYX.shape, limits, strict=True)]
    thinned = volume_ZYX[:: steps[0], :: steps[1], :: steps[2]]
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[[0, 2]] = False
    regions, count = ndimage.label(thinned < BODY_HU, in_plane)
    touches_rim = np.zeros(count + 1, dtype=bool)
    for rim in (regions[:, [0, -1], :], regions[:, :, [0, -1]]):
        touches_rim[rim.ravel()] = True
    touches_rim[0] = False
    body = ~touches_rim[regions]
    lung = body & (thinned >= LUNG_HU[0]) & (thinned <= LUNG_HU[1])
    return float(lung.sum() / max(1, int(body.sum())))


def require_plausible_hu(volume_ZYX: NDArray[Any], config: ConvertConfig) -> None:
    """Refuse values that can't be HU of a chest.

    Raises:
        Quarantine: `hu_implausible` (no air, darker than any padding, hardly any soft tissue: a rescale was left
            out or done twice) or `little_lung` (another body part).
    """
    darkest = float(volume_ZYX.min())
    if not darkest <= config.max_air_hu:
        raise Quarantine(
            "hu_implausible", f"darkest voxel {darkest:.0f} HU, air is below {config.max_air_hu:g}: not rescaled?"
        )
    if darkest < config.min_hu:
        raise Quarantine(
            "hu_implausible", f"darkest voxel {darkest:.0f} HU, padding is above {config.min_hu:g}: rescaled twice?"
        )
    tissue = float(((volume_ZYX >= TISSUE_HU[0]) & (volume_ZYX <= TISSUE_HU[1])).mean())
    if tissue < config.min_tissue_fraction:
        raise Quarantine(
            "hu_implausible",
            f"{tissue:.2%} of voxels are soft tissue, {config.min_tissue_fraction:.2%} wanted: rescaled twice?",
        )
    if config.min_lung_fraction > 0:
        lung = lung_fraction(volume_ZYX)
        if lung < config.min_lung_fraction:
            raise Quarantine("little_lung", f"{lung:.1%} of the body is lung, {config.min_lung_fraction:.1%} wanted")
