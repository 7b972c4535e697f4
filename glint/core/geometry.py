"""Where a voxel lies in the patient: slice order, regularity, affines, orientation.

Arrays are (z, y, x); a point that indexes one is written `index_ZYX`. An affine is 4×4 and takes the index in
*NIfTI* order (x, y, z) to millimetres, because that is how it stands on disk. Nothing here knows whether the
millimetres are LPS or RAS: `glint.formats` turns the one into the other.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.core.errors import GeometryError

Floats = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


def slice_normal(orientation: ArrayLike) -> Floats:
    """Unit normal of a slice from its six direction cosines (row, then column direction).

    Source: DICOM PS3.3 C.7.6.2.1.1, Image Orientation (Patient).

    Raises:
        GeometryError: the two directions are not unit vectors at a right angle (tolerance 1e-3).
    """
    row, column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if not np.isfinite(lengths).all() or np.abs(lengths - 1).max() > 1e-3 or abs(row @ column) > 1e-3:
        raise GeometryError("image orientation is not two unit vectors at a right angle")
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def order_along_normal(positions_mm_N3: ArrayLike, normal: ArrayLike) -> tuple[NDArray[np.intp], Floats]:
    """Order of slices by position along `normal`, and their distances (mm, ascending) in that order.

    Instance numbers play no part: they run backwards or skip in real series. Equal distances keep their order.
    """
    distances_mm = np.asarray(positions_mm_N3, dtype=np.float64) @ np.asarray(normal, dtype=np.float64)
    order = np.argsort(distances_mm, kind="stable")
    return order, distances_mm[order]


@dataclass(frozen=True, kw_only=True)
class SliceSteps:
    """How ordered slices follow each other; see `slice_steps`. Lengths in mm, `tilt_degrees` in degrees."""

    step_mm: float
    gaps_mm: Floats
    largest_drift_mm: float
    largest_shift_mm: float
    tilt_degrees: float


def slice_steps(positions_mm_N3: ArrayLike, normal: ArrayLike) -> SliceSteps:
    """Steps between slices that are already in order along `normal` (at least two).

    Returns:
        step_mm: Mean distance along the normal, (last - first) / (N - 1).
        gaps_mm: The N-1 single distances along the normal.
        largest_drift_mm: How far a slice lies, along the normal, from where equal steps would put it.
        largest_shift_mm: The same within the slice plane, beside the line from the first to the last slice.
        tilt_degrees: Angle between that line and the normal (0 for upright slices).
    """
    positions = np.asarray(positions_mm_N3, dtype=np.float64)
    unit = np.asarray(normal, dtype=np.float64)
    span = positions[-1] - positions[0]
    upright_mm = float(span @ unit)
    distances_mm = (positions - positions[0]) @ unit
    along = distances_mm - np.linspace(0, upright_mm, len(positions))
    # Compared at a slice's own height: with uneven gaps and tilt, its place in the count is another.
    share = distances_mm / upright_mm if upright_mm else np.zeros(len(positions))
    beside = positions - positions[0] - distances_mm[:, None] * unit
    beside = beside - share[:, None] * (span - upright_mm * unit)
    slanted_mm = float(np.linalg.norm(span - upright_mm * unit))
    return SliceSteps(
        step_mm=upright_mm / (len(positions) - 1),
        gaps_mm=np.diff(positions @ unit),
        largest_drift_mm=float(np.abs(along).max()),
        largest_shift_mm=float(np.linalg.norm(beside, axis=1).max()),
        tilt_degrees=float(np.degrees(np.arctan2(slanted_mm, upright_mm))),
    )


def stack_affine(positions_mm_N3: ArrayLike, orientation: ArrayLike, spacing_mm_yx: tuple[float, float]) -> Floats:
    """Affine (index x, y, z → mm, in the frame of the positions) of slices in order.

    The third column is the true mean step between slices, slant included; the origin is the *centre* of the first
    voxel of the first slice. Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1. Pixel Spacing is
    (between rows, between columns), thus (y, x).
    """
    positions = np.asarray(positions_mm_N3, dtype=np.float64)
    row, column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = row * spacing_mm_yx[1]
    affine[:3, 1] = column * spacing_mm_yx[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return affine


def check_affine(affine: ArrayLike) -> Floats:
    """`affine` as float64 (4, 4).

    Raises:
        GeometryError: it has another shape, a value that is not finite, or no volume.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(f"not an affine: shape {matrix.shape}; expected a finite 4x4 matrix ending in 0 0 0 1")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise GeometryError("the affine has no volume: one voxel edge is zero or parallel to another")
    return matrix


def spacing_mm_zyx(affine: ArrayLike) -> tuple[float, float, float]:
    """Distance between voxel centres along z, y, x (mm)."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(z), float(y), float(x)


def voxel_to_world(affine: ArrayLike, index_ZYX: ArrayLike) -> Floats:
    """World positions (…, 3) in mm (x, y, z) of fractional array indices (…, 3) in order (z, y, x)."""
    matrix = np.asarray(affine, dtype=np.float64)
    return np.asarray(np.asarray(index_ZYX, dtype=np.float64)[..., ::-1] @ matrix[:3, :3].T + matrix[:3, 3])


def world_to_voxel(affine: ArrayLike, world_mm: ArrayLike) -> Floats:
    """Fractional array indices (…, 3) in order (z, y, x) of world positions (…, 3) in mm (x, y, z)."""
    inverse = np.linalg.inv(check_affine(affine))
    return np.asarray((np.asarray(world_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])[..., ::-1])


def nearest_world_axes(affine: ArrayLike) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For world axes x, y, z: the index axis (0 x, 1 y, 2 z) that runs closest to it, and its direction (±1).

    Every index axis is used once; the pair with the largest cosine is settled first.
    """
    directions = check_affine(affine)[:3, :3]
    cosines = directions / np.linalg.norm(directions, axis=0)
    remaining = np.abs(cosines)
    axes, signs = [0, 0, 0], [1, 1, 1]
    for _ in range(3):
        world, index = divmod(int(np.argmax(remaining)), 3)
        axes[world], signs[world] = index, 1 if cosines[world, index] > 0 else -1
        remaining[world, :] = remaining[:, index] = -1
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def reorient(volume_ZYX: NDArray[Scalar], affine: ArrayLike) -> tuple[NDArray[Scalar], Floats]:
    """Flip and permute the axes so that x, y, z run along the positive world axes, as closely as they can.

    No value is interpolated. Returns a view of the array and the affine of the new order; a slanted or oblique
    volume keeps its slant in the affine.
    """
    axes, signs = nearest_world_axes(affine)
    matrix = np.asarray(affine, dtype=np.float64)
    sizes = volume_ZYX.shape[::-1]
    turned = np.eye(4)
    turned[:3, 3] = matrix[:3, 3]
    for world, (index, sign) in enumerate(zip(axes, signs, strict=True)):
        turned[:3, world] = sign * matrix[:3, index]
        if sign < 0:
            turned[:3, 3] += (sizes[index] - 1) * matrix[:3, index]
    array = volume_ZYX.transpose([2 - axes[world] for world in (2, 1, 0)])
    return array[tuple(slice(None, None, signs[world]) for world in (2, 1, 0))], turned
