"""Repairs of a stack that is no regular volume: upright slices, even gaps. Each voxel keeps its place in the world."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.core.geometry import slice_normal
from glint.formats.dicom_series import lps_to_ras
from glint.prepare.convert.geometry_gate import EVEN, UPRIGHT, Stack

FINE_GAP_QUANTILE = 0.1  # the new gap: what a tenth of the gaps is or is below; one odd narrow gap sets no pace


def shear_upright(
    volume_ZYX: NDArray[np.float32], shifts_px_N2: NDArray[np.float64], fill_hu: float
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Shift each slice by its (y, x) within the plane, in pixels, linearly; the canvas grows so that nothing is lost.

    Returns:
        The volume, shape (Z, Y', X'), and the (y, x) index at which the old first pixel of an unshifted slice lies.
    """
    low = np.floor(np.minimum(shifts_px_N2.min(axis=0), 0)).astype(np.intp)
    high = np.ceil(np.maximum(shifts_px_N2.max(axis=0), 0)).astype(np.intp)
    rows, columns = np.array(volume_ZYX.shape[1:]) + high - low
    upright = np.empty((len(volume_ZYX), rows, columns), np.float32)
    for slice_YX, shift_px, target_YX in zip(volume_ZYX, shifts_px_N2, upright, strict=True):
        offset = low - shift_px  # canvas index + offset = index in the slice
        ndimage.affine_transform(
            slice_YX, np.ones(2), offset=offset, output=target_YX, order=1, mode="constant", cval=fill_hu
        )
    return upright, -low


def even_distances_mm(distances_mm_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evenly spaced distances from the first to the last, about as fine as the finer gaps, shape (N',)."""
    span_mm = float(distances_mm_N[-1] - distances_mm_N[0])
    gap_mm = float(np.quantile(np.diff(distances_mm_N), FINE_GAP_QUANTILE))
    return np.linspace(distances_mm_N[0], distances_mm_N[-1], max(1, round(span_mm / gap_mm)) + 1)


def interpolate_slices(
    volume_ZYX: NDArray[np.float32], distances_mm_N: NDArray[np.float64], wanted_mm_N: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Slices at `wanted_mm_N`, linear between the two that truly lie around each; distances ascend, shape (N', Y, X)."""
    above = np.clip(np.searchsorted(distances_mm_N, wanted_mm_N), 1, len(distances_mm_N) - 1)
    gaps_mm = distances_mm_N[above] - distances_mm_N[above - 1]
    weights = ((wanted_mm_N - distances_mm_N[above - 1]) / gaps_mm).astype(np.float32)
    even = np.empty((len(wanted_mm_N), *volume_ZYX.shape[1:]), np.float32)
    for target_YX, upper, weight in zip(even, above, weights, strict=True):
        target_YX[:] = (1 - weight) * volume_ZYX[upper - 1] + weight * volume_ZYX[upper]
    return even


def repair(stack: Stack, volume_ZYX: NDArray[Any], fill_hu: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Apply `stack.repairs` to its HU, padding already at `fill_hu`.

    Returns:
        float32 HU, shape (Z', Y', X'), and the affine (index x, y, z → RAS mm) of a right-angled grid.
    """
    row, column = np.array(stack.headers[0].orientation).reshape(2, 3)
    spacing_mm_yx = np.array(stack.headers[0].spacing_mm_yx)
    normal = slice_normal(np.array(stack.headers[0].orientation))
    origin_mm = stack.positions_mm_N3[0]
    relative_mm = stack.positions_mm_N3 - origin_mm
    distances_mm = relative_mm @ normal
    hu = volume_ZYX.astype(np.float32)
    if UPRIGHT in stack.repairs:
        shifts_px = np.stack([relative_mm @ column, relative_mm @ row], axis=1) / spacing_mm_yx
        hu, first_YX = shear_upright(hu, shifts_px, fill_hu)
        origin_mm = origin_mm - first_YX[0] * spacing_mm_yx[0] * column - first_YX[1] * spacing_mm_yx[1] * row
    if EVEN in stack.repairs:
        wanted_mm = even_distances_mm(distances_mm)
        hu, distances_mm = interpolate_slices(hu, distances_mm, wanted_mm), wanted_mm
    step_mm = (distances_mm[-1] - distances_mm[0]) / (len(distances_mm) - 1)
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * spacing_mm_yx[1], column * spacing_mm_yx[0], normal * step_mm, origin_mm])
    if UPRIGHT not in stack.repairs:
        affine[:3, 2] = (stack.positions_mm_N3[-1] - stack.positions_mm_N3[0]) / (len(distances_mm) - 1)
    return hu, lps_to_ras(affine)
