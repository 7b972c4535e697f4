"""A head among the chests: refused before anything leaves, since a face can be rebuilt from its slices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.prepare.convert.plausible_hu import BODY_HU, lung_fraction

HEAD_LUNG = 0.03  # of the body: chest 0.1 to 0.5
HEAD_WIDTH_MM = 260.0  # widest row of the body; heads with their rest stay below, trunks of adults lie above
BONE_HU, HEAD_BONE = 300, 0.06  # the skull is a tenth to a quarter of a head, bone a twentieth of a trunk
SMALLEST_BODY = 0.02  # of all pixels: less says nothing


def is_head(slices_YX: Sequence[NDArray[Any]], column_mm: float) -> bool:
    """True where slices in HU show a skull: little lung, much bone, narrower than a trunk.

    Args:
        slices_YX: HU, thinned at will, all of one shape.
        column_mm: Distance of neighbouring columns in `slices_YX`.
    """
    volume = np.stack(slices_YX)
    body = volume > BODY_HU
    if body.mean() < SMALLEST_BODY or lung_fraction(volume) >= HEAD_LUNG:
        return False
    bone = float((volume > BONE_HU).sum() / body.sum())
    widths = body.any(axis=1).sum(axis=1) * column_mm
    return bone > HEAD_BONE and float(np.median(widths)) < HEAD_WIDTH_MM
