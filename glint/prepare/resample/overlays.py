"""What lies on a scan, masks, label maps, boxes, maps of a model, from one grid to another and back.

Every function takes the two affines and sizes, so that the way to the model's grid and the way back to the scan's own
voxels are the same code; `to_original` also undoes the scanner's order of axes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.core.errors import GeometryError
from glint.core.geometry import check_affine, reorient, voxel_to_world, world_to_voxel
from glint.prepare.resample.kernels import EDGE, Floats, apply_weights, area_weights, axis_weights, valid_range

ALIGNED = 0.05  # voxels; how far rounding may turn an overlay against its image over the whole grid
HALF = 0.5 - 1e-4  # an exactly half filled voxel counts, whatever the last bit says


def _to_source(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """4×4 map of target index to source index, both in order (z, y, x)."""
    order = np.ix_((2, 1, 0, 3), (2, 1, 0, 3))
    return np.asarray((np.linalg.inv(check_affine(source)) @ check_affine(target))[order])


def _parallel(to_source_ZYX: NDArray[np.float64], grid: Sequence[int]) -> bool:
    """True where the axes of the two grids run together, so that each can be read by itself."""
    ratios = np.diag(to_source_ZYX)[:3]
    turned = np.abs(to_source_ZYX[:3, :3] - np.diag(ratios)) @ np.array(grid)
    return bool(turned.max() <= ALIGNED and ratios.min() > 0)


def _nearest(mask_ZYX: NDArray[Any], to_source_ZYX: NDArray[np.float64], grid: Sequence[int]) -> NDArray[Any]:
    """Plain nearest neighbour through a 4×4 map of indices in order (z, y, x); 0 outside."""
    matrix, origin = to_source_ZYX[:3, :3], to_source_ZYX[:3, 3]
    sizes = np.array(mask_ZYX.shape)[:, None, None]
    y, x = np.meshgrid(np.arange(grid[1]), np.arange(grid[2]), indexing="ij")
    plane = matrix[:, 1:2, None] * y + matrix[:, 2:3, None] * x + origin[:, None, None]
    result = np.zeros(tuple(grid), mask_ZYX.dtype)
    for z in range(grid[0]):
        index = np.floor(plane + matrix[:, 0, None, None] * z + 0.5 + EDGE).astype(np.intp)
        inside = ((index >= 0) & (index < sizes)).all(axis=0)
        result[z][inside] = mask_ZYX[tuple(index[:, inside])]
    return result


def _filled(mask_ZYX: NDArray[Any], to_source_ZYX: NDArray[np.float64], grid: Sequence[int]) -> Floats:
    """Share of each target voxel that a mask fills, 0 to 1; the axes of the two run together."""
    weights = [
        area_weights(size, start + ratio * np.arange(count), ratio)
        for size, count, ratio, start in zip(
            mask_ZYX.shape, grid, np.diag(to_source_ZYX)[:3], to_source_ZYX[:3, 3], strict=True
        )
    ]
    share = np.zeros(tuple(grid), np.float32)
    apply_weights(mask_ZYX, weights, out=share)
    return share


def resample_mask(
    mask_ZYX: NDArray[Any], affine: ArrayLike, target_affine: ArrayLike, grid: Sequence[int]
) -> NDArray[Any]:
    """A bit field on the grid of its image: a bit is set where at least half of the target voxel has it; 0 outside.

    By area and not by the nearest voxel alone: at a ratio of two that one lies beside the centre, and the whole
    mask would move by a quarter of a target voxel against its image. Where the mask is rotated against the grid,
    which a mask on its own scan's voxels never is, the nearest voxel decides after all.

    Args:
        mask_ZYX: Integers, each bit a mask of its own (label maps: `resample_labels`), shape (Z, Y, X), any axis
            order.
        affine: Of the mask, index (x, y, z) → RAS mm.
        target_affine: The image's *final* affine, as stage 04 records it.
        grid: Size of the image (z, y, x).

    Returns:
        An array of the mask's type and of size `grid`.

    Raises:
        GeometryError: the mask is not a 3-D array of integers, or an affine is none.
    """
    oriented, to_source = _oriented(mask_ZYX, affine, target_affine)
    if not _parallel(to_source, grid):
        return _nearest(oriented, to_source, grid)
    result = np.zeros(tuple(grid), mask_ZYX.dtype)
    for bit in _bits_set(oriented):
        result[_filled((oriented & bit).astype(bool), to_source, grid) >= HALF] |= bit
    return result


def resample_labels(
    labels_ZYX: NDArray[Any], affine: ArrayLike, target_affine: ArrayLike, grid: Sequence[int]
) -> NDArray[Any]:
    """A label map on the grid of its image: the label that fills most of the target voxel wins; 0 outside.

    Arguments, result and errors as `resample_mask`; between equal shares the smaller label wins.
    """
    oriented, to_source = _oriented(labels_ZYX, affine, target_affine)
    return _labels(oriented, to_source, grid)


def _labels(labels_ZYX: NDArray[Any], to_source_ZYX: NDArray[np.float64], grid: Sequence[int]) -> NDArray[Any]:
    if not _parallel(to_source_ZYX, grid):
        return _nearest(labels_ZYX, to_source_ZYX, grid)
    result = np.zeros(tuple(grid), labels_ZYX.dtype)
    # Background, and what lies outside the map, loses at exactly one half, as it does in `resample_mask`.
    best = HALF - (_filled(labels_ZYX != 0, to_source_ZYX, grid) - 0.5)
    for label in np.unique(labels_ZYX[labels_ZYX != 0]):
        share = _filled(labels_ZYX == label, to_source_ZYX, grid)
        wins = share > best + EDGE
        result[wins], best[wins] = label, share[wins]
    return result


def _oriented(
    mask_ZYX: NDArray[Any], affine: ArrayLike, target_affine: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if mask_ZYX.ndim != 3 or mask_ZYX.dtype.kind not in "uib":
        raise GeometryError(f"a mask is a 3-D array of integers, not {mask_ZYX.dtype} {mask_ZYX.shape}")
    oriented, source = reorient(mask_ZYX, check_affine(affine))
    return oriented, _to_source(source, target_affine)


def _bits_set(mask: NDArray[Any]) -> list[Any]:
    """The powers of two, in the mask's own type, that occur in it."""
    found = np.bitwise_or.reduce(mask, axis=None)
    powers = [mask.dtype.type(True)] if mask.dtype == bool else [1 << bit for bit in range(8 * mask.dtype.itemsize - 1)]
    if mask.dtype.kind == "u":
        powers.append(1 << (8 * mask.dtype.itemsize - 1))
    return [mask.dtype.type(power) for power in powers if found & mask.dtype.type(power)]


def resample_box(
    box_ZYX: Sequence[float], affine: ArrayLike, target_affine: ArrayLike
) -> tuple[float, float, float, float, float, float]:
    """A box from one grid to another: the smallest box there that holds all of it, in fractional voxels.

    Args:
        box_ZYX: (z0, z1, y0, y1, x0, x1), half-open in voxels: voxel i covers i to i + 1, its centre is i + 0.5.
        affine: Of the grid that the box is given on, index (x, y, z) of a voxel *centre* → RAS mm.
        target_affine: Of the other grid; either may be the scan's own or the model's.

    Returns:
        The same six numbers on the other grid; not cut at its edges.

    Raises:
        GeometryError: an affine is none, or the box is empty.
    """
    edges = np.asarray(box_ZYX, dtype=np.float64).reshape(3, 2)
    if (edges[:, 0] >= edges[:, 1]).any():
        raise GeometryError(f"the box {tuple(box_ZYX)} is empty; it is (z0, z1, y0, y1, x0, x1), half-open")
    corners = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3) - 0.5
    there = world_to_voxel(target_affine, voxel_to_world(check_affine(affine), corners)) + 0.5
    (z0, y0, x0), (z1, y1, x1) = there.min(axis=0), there.max(axis=0)
    return float(z0), float(z1), float(y0), float(y1), float(x0), float(x1)


def to_original(
    values_ZYX: NDArray[Any],
    affine: ArrayLike,
    original_affine: ArrayLike,
    original_shape_zyx: Sequence[int],
    *,
    interpolation: Literal["nearest", "linear"] = "nearest",
    outside: float = 0,
) -> NDArray[Any]:
    """What a model said on its grid, on the voxels of the scan as it was stored, axis order and flips included.

    Args:
        values_ZYX: On the model's grid: a mask or label map ("nearest"), a probability or HU ("linear").
        affine: Of that grid, as stage 04 records it.
        original_affine: Of the scan, index (x, y, z) → RAS mm.
        original_shape_zyx: Of the scan's array.
        interpolation: "nearest" keeps whole numbers and their type, by area as `resample_labels` does: a voxel centre
            on the border of two would always go to one side and move the mask; "linear" gives float32 and, where the
            scan is coarser than the grid, averages.
        outside: Value of the scan's voxels that the grid doesn't reach.

    Raises:
        GeometryError: an array is not 3-D, or an affine is none.
    """
    if values_ZYX.ndim != 3 or len(original_shape_zyx) != 3:
        raise GeometryError(f"a grid has three axes, not {values_ZYX.shape} and {tuple(original_shape_zyx)}")
    if interpolation == "nearest" and values_ZYX.dtype.kind not in "uib":
        raise GeometryError(f"{values_ZYX.dtype} values go back by linear interpolation; nearest is for whole numbers")
    result = np.full(tuple(original_shape_zyx), outside, values_ZYX.dtype if interpolation == "nearest" else np.float32)
    oriented_result, original = reorient(result, check_affine(original_affine))
    oriented, source = reorient(values_ZYX, check_affine(affine))
    to_source = _to_source(source, original)
    if not _parallel(to_source, oriented_result.shape):
        _across_a_rotation(oriented, to_source, oriented_result, order=0 if interpolation == "nearest" else 1)
        return result
    ratios, starts = np.diag(to_source)[:3], to_source[:3, 3]
    places = [s + r * np.arange(n) for s, r, n in zip(starts, ratios, oriented_result.shape, strict=True)]
    reached = [valid_range(place, size) for place, size in zip(places, oriented.shape, strict=True)]
    box = tuple(slice(*pair) for pair in reached)
    if interpolation == "nearest":
        oriented_result[box] = _labels(oriented, to_source, oriented_result.shape)[box]
    else:
        weights = [
            axis_weights(n, place[part], r)
            for n, place, part, r in zip(oriented.shape, places, box, ratios, strict=True)
        ]
        apply_weights(oriented, weights, out=oriented_result[box])
    return result


def _across_a_rotation(
    values_ZYX: NDArray[Any], to_source_ZYX: NDArray[np.float64], out: NDArray[Any], *, order: int
) -> None:
    """Fill `out` voxel by voxel; only where the two grids are turned against each other."""
    from scipy import ndimage  # half a second to import, which stage 04 itself has no use for

    sizes = np.array(values_ZYX.shape)[:, None, None]
    plane: NDArray[np.float64] = np.indices(out.shape[1:], dtype=np.float64)
    for z in range(out.shape[0]):
        index = np.einsum("ij,jyx->iyx", to_source_ZYX[:3, 1:3], plane)
        index += (to_source_ZYX[:3, 0] * z + to_source_ZYX[:3, 3])[:, None, None]
        inside = ((index >= -0.5 - EDGE) & (index <= sizes - 0.5 + EDGE)).all(axis=0)
        out[z][inside] = ndimage.map_coordinates(values_ZYX, index[:, inside], order=order, mode="nearest")
