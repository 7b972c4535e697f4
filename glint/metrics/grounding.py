"""Does the map's highest point lie on the finding?"""

import numpy as np
from numpy.typing import NDArray


def pointing_score(map_V: NDArray[np.floating], mask_V: NDArray[np.bool_]) -> float:
    """1 if the highest value of the map lies in the mask, 0 if not; NaN for an empty mask or an empty map.

    Several equal maxima count by the share that lies in the mask, so that a constant map scores by chance and not by the
    order of the voxels. Any shape; both arrays alike.

    Raises:
        ValueError: the shapes differ, or the map holds NaN.
    """
    if map_V.shape != mask_V.shape:
        raise ValueError(f"map {map_V.shape} and mask {mask_V.shape} differ in shape")
    if not mask_V.any():
        return float("nan")
    highest = map_V.max()
    if np.isnan(highest):
        raise ValueError("the map holds NaN")
    return float(mask_V[map_V == highest].mean())


def random_pointing_score(mask_V: NDArray[np.bool_], body_V: NDArray[np.bool_]) -> float:
    """Chance that a random voxel of the body lies in the mask; NaN for an empty mask or no body."""
    if not mask_V.any() or not body_V.any():
        return float("nan")
    return float((mask_V & body_V).sum() / body_V.sum())
