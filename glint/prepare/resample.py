"""Stage 04: volumes onto the grid of the model, with the affine that is true for it.

Array order on disk is the same for every patient, whatever the scanner did: z runs to superior, y to anterior,
x to the patient's right, so the file is RAS+ (index x, y, z). An oblique scan keeps its obliqueness in the affine;
nothing is rotated. Spacing is exactly the target: the grid is laid about the centre of the scan's outer faces, and
each voxel is looked up at its true place, so that no size has to be rounded and no slice is shifted.

Axes that shrink are filtered with a triangle as wide as the target voxel before they are sampled, since plain linear
interpolation keeps a 4 mm wave at full strength at 3 mm; axes that grow are linear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.core.atomic import atomic_directory
from glint.core.config.resample import ResampleConfig
from glint.core.errors import GeometryError, InputError, Quarantine
from glint.core.geometry import check_affine, reorient, spacing_mm_zyx
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.nifti import read_nifti, stored_affine, write_nifti

Floats = NDArray[np.float32]
Sizes = tuple[int, int, int]
BLOCK = 64  # output rows per matrix product: their taps span a narrow band of the input
ALIGNED = 0.05  # voxels; how far rounding may turn a mask against its image over the whole grid
HALF = 0.5 - 1e-4  # an exactly half filled voxel counts, whatever the last bit says
EDGE = 1e-6  # voxels; keeps a voxel on an outer face from flickering with the last bit


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A volume on the model's grid.

    `volume_ZYX` is int16 HU; `affine` takes index (x, y, z) to RAS mm; `valid_box` is (z0, z1, y0, y1, x0, x1),
    half-open: the voxels whose centres lie within the scan, the others are padding.
    """

    volume_ZYX: NDArray[np.int16]
    affine: NDArray[np.float64]
    valid_box: tuple[int, int, int, int, int, int]


def sample_places(num_in: int, num_out: int, ratio: float) -> NDArray[np.float64]:
    """Input index of every output voxel centre along one axis; the two centres of the axis coincide.

    `ratio` is output spacing over input spacing. Voxels are areas: the axis runs from -0.5 to `num_in` - 0.5.
    """
    return np.asarray((np.arange(num_out) + 0.5 - num_out / 2) * ratio + num_in / 2 - 0.5)


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


def _apply_weights(volume: Floats, weights: Floats, axis: int) -> Floats:
    """`weights` (out, in) times `volume` along `axis`, block by block over the band that each block reads."""
    num_out = weights.shape[0]
    shape = tuple(num_out if place == axis else size for place, size in enumerate(volume.shape))
    result = np.empty(shape, np.float32)
    for start in range(0, num_out, BLOCK):
        block = weights[start : start + BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        band = block[:, low:high]
        if axis == 0:
            flat = volume[low:high].reshape(high - low, -1)
            np.matmul(band, flat, out=result[start : start + BLOCK].reshape(len(band), -1))
        elif axis == 1:
            np.matmul(band, volume[:, low:high], out=result[:, start : start + BLOCK])
        else:
            np.matmul(volume[:, :, low:high], band.T, out=result[:, :, start : start + BLOCK])
    return result


def _valid_range(places: NDArray[np.float64], num_in: int) -> tuple[int, int]:
    inside = np.flatnonzero((places >= -0.5 - EDGE) & (places <= num_in - 0.5 + EDGE))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def resample_volume(
    volume_ZYX: NDArray[Any],
    affine: ArrayLike,
    *,
    spacing_mm: Sequence[float],
    grid: Sequence[int],
    clip_hu: tuple[float, float] = (-1024.0, 3071.0),
    pad_hu: int = -1024,
) -> Resampled:
    """Orient, clip, and resample a volume onto `grid` voxels of exactly `spacing_mm`, cut or padded about its centre.

    Args:
        volume_ZYX: HU, any real type, shape (Z, Y, X), any axis order.
        affine: 4×4, index (x, y, z) → RAS mm.
        spacing_mm: Wanted voxel (z, y, x) after orientation to superior, anterior, right.
        grid: Wanted size (z, y, x).
        clip_hu: HU limits, applied before interpolation.
        pad_hu: Value of voxels outside the scan.

    Returns:
        A `Resampled`; every value lies within the range of the clipped input, or is `pad_hu`.

    Raises:
        GeometryError: the array is not 3-D or empty, the affine is none, a spacing or size is not positive.
    """
    if volume_ZYX.ndim != 3 or 0 in volume_ZYX.shape:
        raise GeometryError(f"a volume has three axes and at least one voxel, not {volume_ZYX.shape}")
    if min(spacing_mm) <= 0 or min(grid) < 1:
        raise GeometryError(f"spacing_mm {tuple(spacing_mm)} and grid {tuple(grid)} must be positive")
    oriented, source = reorient(volume_ZYX, check_affine(affine))
    ratios = np.asarray(spacing_mm, dtype=np.float64) / spacing_mm_zyx(source)
    places = [sample_places(n, m, r) for n, m, r in zip(oriented.shape, grid, ratios, strict=True)]
    valid = [_valid_range(place, n) for place, n in zip(places, oriented.shape, strict=True)]
    weights = [
        axis_weights(n, place[start:stop], ratio)
        for n, place, (start, stop), ratio in zip(oriented.shape, places, valid, ratios, strict=True)
    ]
    resampled: Floats = np.array(oriented, dtype=np.float32, order="C")
    np.clip(resampled, *clip_hu, out=resampled)
    for axis in sorted(range(3), key=lambda axis: weights[axis].shape[0] / weights[axis].shape[1]):
        resampled = _apply_weights(resampled, weights[axis], axis)
    volume = np.full(tuple(grid), pad_hu, np.int16)
    (z0, z1), (y0, y1), (x0, x1) = valid
    volume[z0:z1, y0:y1, x0:x1] = np.rint(resampled)
    target = source.copy()
    target[:3, :3] = source[:3, :3] * ratios[::-1]
    target[:3, 3] = source[:3, :3] @ [place[0] for place in reversed(places)] + source[:3, 3]
    return Resampled(volume_ZYX=volume, affine=stored_affine(target), valid_box=(z0, z1, y0, y1, x0, x1))


def area_weights(num_in: int, places: NDArray[np.float64], ratio: float) -> Floats:
    """Share (len(places), num_in) of each output voxel, `ratio` input voxels wide about its place, that each fills."""
    centres = np.arange(num_in)
    low, high = (places - ratio / 2)[:, None], (places + ratio / 2)[:, None]
    overlap = np.minimum(high, centres + 0.5) - np.maximum(low, centres - 0.5)
    return np.asarray(np.maximum(0.0, overlap) / ratio, dtype=np.float32)


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


def resample_mask(
    mask_ZYX: NDArray[Any], affine: ArrayLike, target_affine: ArrayLike, grid: Sequence[int]
) -> NDArray[Any]:
    """A bit field on the grid of its image: a bit is set where at least half of the target voxel has it; 0 outside.

    By area and not by the nearest voxel alone: at a ratio of two that one lies beside the centre, and the whole
    mask would move by a quarter of a target voxel against its image. Where the mask is rotated against the grid,
    which a mask on its own scan's voxels never is, the nearest voxel decides after all.

    Args:
        mask_ZYX: Integers, each bit a mask of its own (label maps: one label at a time), shape (Z, Y, X), any axis
            order.
        affine: Of the mask, index (x, y, z) → RAS mm.
        target_affine: The image's *final* affine, as stage 04 records it.
        grid: Size of the image (z, y, x).

    Returns:
        An array of the mask's type and of size `grid`.

    Raises:
        GeometryError: the mask is not a 3-D array of integers, or an affine is none.
    """
    if mask_ZYX.ndim != 3 or mask_ZYX.dtype.kind not in "uib":
        raise GeometryError(f"a mask is a 3-D array of integers, not {mask_ZYX.dtype} {mask_ZYX.shape}")
    oriented, source = reorient(mask_ZYX, check_affine(affine))
    to_source = (np.linalg.inv(source) @ check_affine(target_affine))[np.ix_((2, 1, 0, 3), (2, 1, 0, 3))]
    ratios, origin = np.diag(to_source)[:3], to_source[:3, 3]
    turned = np.abs(to_source[:3, :3] - np.diag(ratios)) @ np.array(grid)
    if turned.max() > ALIGNED or ratios.min() <= 0:
        return _nearest(oriented, to_source, grid)
    weights = [
        area_weights(size, start + ratio * np.arange(count), ratio)
        for size, count, ratio, start in zip(oriented.shape, grid, ratios, origin, strict=True)
    ]
    result = np.zeros(tuple(grid), mask_ZYX.dtype)
    for bit in _bits_set(oriented):
        filled: Floats = (oriented & bit).astype(bool).astype(np.float32)
        for axis in sorted(range(3), key=lambda axis: grid[axis] / filled.shape[axis]):
            filled = _apply_weights(filled, weights[axis], axis)
        result[filled >= HALF] |= bit
    return result


def _bits_set(mask: NDArray[Any]) -> list[Any]:
    """The powers of two, in the mask's own type, that occur in it."""
    found = np.bitwise_or.reduce(mask, axis=None)
    powers = [mask.dtype.type(True)] if mask.dtype == bool else [1 << bit for bit in range(8 * mask.dtype.itemsize - 1)]
    if mask.dtype.kind == "u":
        powers.append(1 << (8 * mask.dtype.itemsize - 1))
    return [mask.dtype.type(power) for power in powers if found & mask.dtype.type(power)]


def window_channels(volume_hu_ZYX: NDArray[Any], windows_hu: Sequence[tuple[float, float]]) -> Floats:
    """HU as window channels: float32 (C, Z, Y, X), each window's (low, high) HU taken to [0, 1] and clipped there."""
    channels = np.empty((len(windows_hu), *volume_hu_ZYX.shape), np.float32)
    for channel, (low, high) in zip(channels, windows_hu, strict=True):
        np.subtract(volume_hu_ZYX, low, out=channel, casting="unsafe")
        channel /= high - low
        np.clip(channel, 0, 1, out=channel)
    return channels


def select_series(rows: Sequence[dict[str, Any]], coverage_tolerance: float) -> dict[str, Any]:
    """The series that stands for a study: of those that cover it best, the thinnest.

    Args:
        rows: Accepted stage-03 rows of one study, at least one.
        coverage_tolerance: Series whose extent is at least (1 - this) of the longest one's count as covering it
            equally; the thinnest of them wins, then the longer, then the smaller identifier.
    """
    extents_mm = [row["shape_zyx"][0] * row["spacing_mm"][0] for row in rows]
    enough_mm = (1 - coverage_tolerance) * max(extents_mm)
    candidates = [(row, extent) for row, extent in zip(rows, extents_mm, strict=True) if extent >= enough_mm]
    best, _ = min(candidates, key=lambda pair: (round(pair[0]["spacing_mm"][0], 3), -pair[1], pair[0]["series_id"]))
    return best


def _study_row(study: list[dict[str, Any]], *, source: Path, target: Path, config: ResampleConfig) -> dict[str, Any]:
    """Manifest row of one study out of its stage-03 rows; its volume is written below `target`."""
    made = {key: study[0][key] for key in ("study_id", "patient_id")}
    made["params_digest"] = digest(config.model_dump(mode="json"))
    usable = [row for row in study if row["status"] == "ok"]
    if not usable:
        reasons = sorted({row["reason"] for row in study})
        reason = reasons[0] if len(reasons) == 1 else "no_usable_series"
        made["input_digest"] = digest([row["input_digest"] for row in study])
        return {**made, "status": "quarantined", "reason": reason, "detail": f"no usable series: {', '.join(reasons)}"}
    chosen = select_series(usable, config.coverage_tolerance)
    path = source / chosen["path"]
    made |= {"series_id": chosen["series_id"], "input_digest": sha256_file(path)}
    made["not_selected"] = [row["series_id"] for row in usable if row is not chosen]
    try:
        resampled = resample_volume(
            *read_nifti(path),
            spacing_mm=config.spacing_mm,
            grid=config.grid,
            clip_hu=config.clip_hu,
            pad_hu=config.pad_hu,
        )
    except GeometryError as error:
        refusal = Quarantine("unusable_volume", str(error))
        return {**made, "status": "quarantined", "reason": refusal.reason, "detail": refusal.detail}
    relative = Path("volumes", f"{chosen['study_id']}.nii")
    write_nifti(target / relative, resampled.volume_ZYX, resampled.affine)
    affine, box = resampled.affine.ravel().tolist(), list(resampled.valid_box)
    return {**made, "status": "ok", "path": str(relative), "affine": affine, "valid_box": box}


def resample_shard(manifest_path: Path, out_path: Path, config: ResampleConfig, *, workers: int = 1) -> None:
    """Resample one series of every study of a stage-03 manifest; `out_path` is the manifest of a folder made whole.

    Raises:
        InputError: the manifest is absent or of another schema, or a volume it calls ok is absent or unreadable.
    """
    rows = read_manifest(manifest_path, "convert").sort("study_id", "series_id").to_dicts()
    studies: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        studies.setdefault(row["study_id"], []).append(row)
    volumes = [row["path"] for row in rows if row["status"] == "ok"]
    absent = [path for path in volumes if not (manifest_path.parent / path).is_file()]
    if absent:
        raise InputError(f"{manifest_path}: lists {absent[0]}, which is not there; run the convert stage again")
    with atomic_directory(out_path.parent) as target:
        resample = partial(_study_row, source=manifest_path.parent, target=target, config=config)
        made = parallel_map(resample, list(studies.values()), workers=workers, description="resample")
        write_manifest(target / out_path.name, manifest_frame(made, "resample"), "resample")
    accepted = sum(row["status"] == "ok" for row in made)
    log(f"resample: {accepted} of {len(made)} studies on the model's grid, {len(made) - accepted} quarantined")
