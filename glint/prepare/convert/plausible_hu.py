"""Are the values Hounsfield units of a chest? Catches what no header tells."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine

TISSUE_HU = (-200, 300)
LUNG_HU = (-950, -600)
INT16_MIN = -(2**15)  # padding that lies beyond 16 bits is held there
BODY_HU = -500  # half-way between air and water
EXAMINED_PIXELS = 128  # per in-plane edge at most: shares need no finer look
EXAMINED_SLICES = 96
LEAST_AIR = 0.01  # share of voxels; less is no sample


def thinned(volume_ZYX: NDArray[Any]) -> NDArray[Any]:
    """Every n-th voxel per axis, at most 96 × 128 × 128 of them."""
    limits = (EXAMINED_SLICES, EXAMINED_PIXELS, EXAMINED_PIXELS)
    steps = [-(-size // limit) for size, limit in zip(volume_ZYX.shape, limits, strict=True)]
    return np.ascontiguousarray(volume_ZYX[:: steps[0], :: steps[1], :: steps[2]])


def outside_body(volume_ZYX: NDArray[Any]) -> NDArray[np.bool_]:
    """What is darker than -500 HU and joined, within its slice, to the slice's rim: air and padding; shape (Z, Y, X)."""
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[[0, 2]] = False
    regions, count = ndimage.label(volume_ZYX < BODY_HU, in_plane)
    touches_rim = np.zeros(count + 1, dtype=bool)
    for rim in (regions[:, [0, -1], :], regions[:, :, [0, -1]]):
        touches_rim[rim.ravel()] = True
    touches_rim[0] = False
    return np.asarray(touches_rim[regions])


def lung_fraction(volume_ZYX: NDArray[Any]) -> float:
    """Share of the body, slice by slice with its cavities, that lies in -950..-600 HU.

    Chest 0.1 to 0.5, abdomen below 0.1, head below 0.03. The volume, (Z, Y, X) in HU of axial slices, is thinned to
    at most 96 × 128 × 128. The body is what is denser than -500 HU and all that it encloses, table included.
    """
    seen = thinned(volume_ZYX)
    return _lung_share(seen, ~outside_body(seen))


def _lung_share(seen_ZYX: NDArray[Any], body_ZYX: NDArray[np.bool_]) -> float:
    lung = body_ZYX & (seen_ZYX >= LUNG_HU[0]) & (seen_ZYX <= LUNG_HU[1])
    return float(lung.sum() / max(1, int(body_ZYX.sum())))


def _require_air_at_its_place(air: NDArray[Any], num_seen: int, config: ConvertConfig) -> None:
    """Air around the body lies near -1000 HU; a series cropped within the body has none, and passes."""
    if air.size < LEAST_AIR * num_seen:
        return
    darker, middle = (float(value) for value in np.percentile(air, (10, 50)))
    if darker > config.max_air_hu or middle < config.min_air_hu:
        raise Quarantine(
            "hu_implausible",
            f"air around the body at {middle:.0f} HU, not between {config.min_air_hu:g} and {config.max_air_hu:g}: "
            "wrong intercept, or rescaled twice?",
        )


def require_plausible_hu(
    volume_ZYX: NDArray[Any],
    config: ConvertConfig,
    padding_ZYX: NDArray[np.bool_] | None = None,
    *,
    darkest: float | None = None,
) -> None:
    """Refuse values that can't be HU of a chest; `volume_ZYX` in axial slices, `padding_ZYX` is no measurement.

    `darkest` is the volume's lowest value where it is known already.

    Raises:
        Quarantine: `hu_implausible` (no air, air at a wrong value, darker than any padding, hardly any soft tissue:
            a rescale was left out or done twice) or `little_lung` (another body part).
    """
    seen = thinned(volume_ZYX)
    padding = seen < config.padding_below_hu if padding_ZYX is None else thinned(padding_ZYX)
    if darkest is None:
        darkest = float(volume_ZYX.min())
    if darkest == INT16_MIN:
        everywhere = volume_ZYX < config.padding_below_hu if padding_ZYX is None else padding_ZYX
        darkest = float(volume_ZYX[~(everywhere & (volume_ZYX == INT16_MIN))].min(initial=0))
    if not darkest <= config.max_air_hu:
        raise Quarantine(
            "hu_implausible", f"darkest voxel {darkest:.0f} HU, air is below {config.max_air_hu:g}: not rescaled?"
        )
    if darkest < config.min_hu:
        raise Quarantine(
            "hu_implausible", f"darkest voxel {darkest:.0f} HU, padding is above {config.min_hu:g}: rescaled twice?"
        )
    tissue = float(((seen >= TISSUE_HU[0]) & (seen <= TISSUE_HU[1])).mean())
    if tissue < config.min_tissue_fraction:
        raise Quarantine(
            "hu_implausible",
            f"{tissue:.2%} of voxels are soft tissue, {config.min_tissue_fraction:.2%} wanted: rescaled twice?",
        )
    outside = outside_body(seen)
    if config.min_lung_fraction > 0:
        lung = _lung_share(seen, ~outside)
        if lung < config.min_lung_fraction:
            raise Quarantine("little_lung", f"{lung:.1%} of the body is lung, {config.min_lung_fraction:.1%} wanted")
    _require_air_at_its_place(seen[outside & ~padding], seen.size, config)
