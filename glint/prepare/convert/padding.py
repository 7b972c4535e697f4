"""Padding, where nothing was measured, becomes air: -2000 rescaled to -3024 would bleed into what is interpolated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.formats.dicom_series import INT16, SliceHeader

CORNERS = (np.s_[:2, :2], np.s_[:2, -2:], np.s_[-2:, :2], np.s_[-2:, -2:])


def declared_padding_hu(header: SliceHeader) -> tuple[float, float] | None:
    """Lowest and highest HU of the header's padding range (PS3.3 C.7.5.1.1.2), None where it declares none."""
    if header.padding is None or header.slope is None or header.intercept is None:
        return None
    ends = sorted(max(INT16.min, end * header.slope + header.intercept) for end in header.padding)
    return ends[0], ends[1]


def padding_mask(
    headers: Sequence[SliceHeader], volume_ZYX: NDArray[Any], darkest: float, config: ConvertConfig
) -> NDArray[np.bool_] | None:
    """Voxels that are padding, shape (Z, Y, X): darker than any air, or of the value that the header declares.

    None where no header declares any and no voxel is that dark (`darkest` HU is the lowest), as in most scans.

    A declared value brighter than air is not believed: scanners declare 0 where 0 is water.

    Raises:
        Quarantine: `padding_not_air`, such a value fills a corner of a slice: around the body would be tissue.
    """
    if all(header.padding is None for header in headers) and darkest >= config.padding_below_hu:
        return None
    mask = np.asarray(volume_ZYX < config.padding_below_hu)
    for place, header in enumerate(headers):
        declared = declared_padding_hu(header)
        if declared is None:
            continue
        inside = (volume_ZYX[place] >= declared[0]) & (volume_ZYX[place] <= declared[1])
        if declared[1] <= config.max_air_hu:
            mask[place] |= inside
        elif any(inside[corner].all() for corner in CORNERS):
            raise Quarantine(
                "padding_not_air",
                f"slice {place + 1} of {len(headers)} is filled with {declared[1]:.0f} HU outside the scanner's circle,"
                f" which is no air (above {config.max_air_hu:g} HU)",
            )
    return mask
