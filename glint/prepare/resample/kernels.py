"""Reading an axis at fractional places: one matrix of weights per axis, for arrays of any number of axes.

Axes that shrink are filtered with a triangle as wide as the target voxel before they are sampled, since plain linear
interpolation keeps a 4 mm wave at full strength at 3 mm; axes that grow are linear.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BLOCK = 16  # output rows per matrix product: their taps span a narrow band of the input, the rest would be zeros
SLAB = 4  # output planes made at a time: what they need of the input stays in the processor's cache
EDGE = 1e-6  # voxels; keeps a voxel on an outer face from flickering with the last bit


def sample_places(num_in: int, num_out: int, ratio: float) -> NDArray[np.float64]:
    """Input index of every output voxel centre along one axis; the two centres of the axis coincide.

    `ratio` is output spacing over input spacing. Voxels are areas: the axis runs from -0.5 to `num_in` - 0.5.
    """
    return np.asarray((np.arange(num_out) + 0.5 - num_out / 2) * ratio + num_in / 2 - 0.5)


def valid_range(places: NDArray[np.float64], num_in: int) -> tuple[int, int]:
    """First and one past the last of the (rising) places that lie within the axis; (0, 0) if none does."""
    inside = np.flatnonzero((places >= -0.5 - EDGE) & (places <= num_in - 0.5 + EDGE))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def axis_weights(num_in: int, places: NDArray[np.float64], ratio: float) -> Floats:
    """Weights (len(places), num_in) that read an axis at `places`: rows sum to 1, no weight is negative.

    A triangle of half-width max(1, `ratio`) input voxels: linear interpolation where the axis grows, antialiasing
    where it shrinks. Away from the ends each row is tilted so that its centre of mass is the place itself, since a
    sampled triangle of odd width is up to 0.03 voxels off; a ramp thus comes out exactly. At the ends the kernel
    is cut off and scaled up, which keeps the nearest values.
    """
    width = max(1.0, ratio)
    offsets = np.arange(num_in) - places.clip(0, num_in - 1)[:, None]
    weights = np.maximum(0.0, 1.0 - np.abs(offsets) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = (places >= width - 1) & (places <= num_in - width)
    first = (weights * offsets).sum(axis=1, keepdims=True)
    second = (weights * offsets**2).sum(axis=1, keepdims=True)
    slope = np.where(inside[:, None] & (second > 0), -first / np.maximum(second, 1e-12), 0.0)
    weights = np.maximum(0.0, weights * (1 + slope * offsets))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def area_weights(num_in: int, places: NDArray[np.float64], ratio: float) -> Floats:
    """Share (len(places), num_in) of each output voxel, `ratio` input voxels wide about its place, that each fills."""
    centres = np.arange(num_in)
    low, high = (places - ratio / 2)[:, None], (places + ratio / 2)[:, None]
    overlap = np.minimum(high, centres + 0.5) - np.maximum(low, centres - 0.5)
    return np.asarray(np.maximum(0.0, overlap) / ratio, dtype=np.float32)


def _band(weights: Floats) -> tuple[int, int]:
    """First and one past the last input index that any of these rows reads."""
    used = np.flatnonzero(weights.any(axis=0))
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)


def _along(array: Floats, weights: Floats, axis: int) -> Floats:
    """`weights` (out, in) times `array` along `axis`, block by block over the band that each block reads."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    last = axis == array.ndim - 1
    middle = np.ascontiguousarray(array).reshape(-1, array.shape[axis], int(np.prod(after, dtype=int)))
    result = np.empty((len(middle), len(weights), middle.shape[2]), np.float32)
    for start in range(0, len(weights), BLOCK):
        block = weights[start : start + BLOCK]
        low, high = _band(block)
        band = block[:, low:high]
        if last:  # one product for all rows, not one small one per row
            np.matmul(middle[:, low:high, 0], band.T, out=result[:, start : start + BLOCK, 0])
        else:
            np.matmul(band, middle[:, low:high], out=result[:, start : start + BLOCK])
    return result.reshape(*before, len(weights), *after)


def apply_weights(
    array: NDArray[Any],
    weights: Sequence[Floats],
    *,
    out: NDArray[Any],
    limits: tuple[float, float] | None = None,
) -> None:
    """Read every axis of `array` by its weights (out, in) into `out`, rounded where `out` holds integers.

    Works through the array in slabs along the axis that is slowest in memory, whatever the order of its axes, so
    that beside the two arrays only some planes are in memory. `limits` clips the values before they are averaged.

    Args:
        array: Any real type and number of axes; a transposed or flipped view costs nothing extra.
        weights: One matrix per axis.
        out: Shape (len(weights[0]), len(weights[1]), ...); filled.
        limits: Lowest and highest value.
    """
    slowest_first = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    array, out = array.transpose(slowest_first), out.transpose(slowest_first)
    weights = [weights[axis] for axis in slowest_first]
    if 0 in out.shape:
        return
    shrinking_first = sorted(range(array.ndim), key=lambda axis: weights[axis].shape[0] / weights[axis].shape[1])
    for start in range(0, out.shape[0], SLAB):
        block = weights[0][start : start + SLAB]
        low, high = _band(block)
        slab = np.array(array[low:high], dtype=np.float32, order="C")
        if limits is not None:
            np.clip(slab, *limits, out=slab)
        for axis in shrinking_first:
            slab = _along(slab, block[:, low:high] if axis == 0 else weights[axis], axis)
        out[start : start + SLAB] = np.rint(slab, out=slab) if out.dtype.kind in "iu" else slab
