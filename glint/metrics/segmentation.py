"""Overlap of masks: at one threshold, and at many in a single pass over the voxels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def dice_score(predicted_V: Bools, truth_V: Bools) -> float:
    """2 |P and T| / (|P| + |T|); 1 where both are empty, 0 where only one is. Any shape; both arrays alike.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted_V.shape != truth_V.shape:
        raise ValueError(f"prediction {predicted_V.shape} and truth {truth_V.shape} differ in shape")
    total = np.count_nonzero(predicted_V) + np.count_nonzero(truth_V)
    return 2 * np.count_nonzero(predicted_V & truth_V) / total if total else 1.0


def dice_curve_scores(map_V: NDArray[np.floating], truth_V: Bools, *, lowest: float, step: float, num: int) -> Floats:
    """(num,) Dice of `map > lowest + k * step`, k = 0 … num - 1.

    Two histograms instead of `num` masks. A value within rounding of a threshold may fall to either side of it.

    Raises:
        ValueError: the shapes differ, or step is not positive.
    """
    if map_V.shape != truth_V.shape or step <= 0:
        raise ValueError(f"map {map_V.shape}, truth {truth_V.shape}, step {step}: shapes must agree, step be above 0")
    passed = np.ceil(np.clip((map_V - lowest) / step, 0, num)).astype(np.intp)  # thresholds that lie below the voxel
    predicted_K = _at_least(passed.ravel(), num)
    shared_K = _at_least(passed[truth_V], num)
    total_K = predicted_K + np.count_nonzero(truth_V)
    return np.asarray(np.divide(2.0 * shared_K, total_K, out=np.ones(num), where=total_K > 0))


def _at_least(passed: NDArray[np.intp], num: int) -> NDArray[np.int64]:
    """How many voxels passed more than k thresholds, k = 0 … num - 1."""
    counts = np.bincount(passed, minlength=num + 1)
    return np.asarray(counts[::-1].cumsum()[::-1][1:], dtype=np.int64)


def everything_dice_score(num_truth: int, num_body: int) -> float:
    """Dice of calling the whole body the finding; 1 if there is nothing to find and no body.

    The stricter of two chance levels: a random set of voxels as large as the truth reaches truth / body, about half of it.
    """
    return 2 * num_truth / (num_truth + num_body) if num_truth + num_body else 1.0


def false_positive_image_errors(nonempty_N: Bools, positive_N: Bools, weight_RN: NDArray[np.generic]) -> Floats:
    """(R,) weighted shares of negative images with a mask that isn't empty; NaN without a negative. Lower is better."""
    negative_RN = np.atleast_2d(np.asarray(weight_RN, dtype=np.float64)) * ~positive_N
    total_R, wrong_R = negative_RN.sum(axis=1), (negative_RN * nonempty_N).sum(axis=1)
    return np.asarray(np.divide(wrong_R, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0))


def iou_score(predicted_V: Bools, truth_V: Bools) -> float:
    """|P and T| / |P or T|; 1 where both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    dice = dice_score(predicted_V, truth_V)
    return dice / (2 - dice)


def recall_score(predicted_V: Bools, truth_V: Bools) -> float:
    """Share of the truth that the prediction covers; NaN for an empty truth."""
    total = np.count_nonzero(truth_V)
    return np.count_nonzero(predicted_V & truth_V) / total if total else float("nan")


def hit_score(predicted_V: Bools, truth_V: Bools, *, least_dice: float = 0.1) -> float:
    """1 if the Dice reaches `least_dice`, else 0; NaN for an empty truth.

    Source: HIT of ReXGroundingCT, Dice of at least 0.1.
    """
    return float(dice_score(predicted_V, truth_V) >= least_dice) if truth_V.any() else float("nan")


def instance_counts(predicted_V: Bools, truth_V: Bools, *, least_dice: float = 0.2) -> tuple[int, int, int]:
    """Matched instances, predicted ones, true ones: connected parts, matched one to one so that their Dice sum is highest.

    F1 of a cohort is 2 matched / (predicted + true) over all its counts. Source: instance F1 of ReXGroundingCT, Dice of
    at least 0.2 for a match.
    """
    from scipy.ndimage import generate_binary_structure, label
    from scipy.optimize import linear_sum_assignment

    structure = generate_binary_structure(truth_V.ndim, truth_V.ndim)
    predicted, num_predicted = label(predicted_V, structure)
    truth, num_truth = label(truth_V, structure)
    if not num_predicted or not num_truth:
        return 0, num_predicted, num_truth
    pairs = np.bincount(
        (predicted * (num_truth + 1) + truth).ravel(), minlength=(num_predicted + 1) * (num_truth + 1)
    ).reshape(num_predicted + 1, num_truth + 1)
    size_P, size_T = pairs.sum(axis=1)[1:], pairs.sum(axis=0)[1:]
    dice_PT = 2 * pairs[1:, 1:] / (size_P[:, None] + size_T)
    dice_PT = np.where(dice_PT >= least_dice, dice_PT, 0.0)
    rows, columns = linear_sum_assignment(dice_PT, maximize=True)
    return int((dice_PT[rows, columns] > 0).sum()), num_predicted, num_truth


def instance_f1_scores(counts_N3: NDArray[np.integer], positive_N: Bools, weight_RN: NDArray[np.generic]) -> Floats:
    """(R,) 2 matched / (predicted + true) over the positives' `instance_counts`; NaN without an instance."""
    weight_RN = np.atleast_2d(np.asarray(weight_RN, dtype=np.float64)) * positive_N
    matched_R, predicted_R, true_R = (weight_RN @ counts_N3).T
    total_R = predicted_R + true_R
    return np.asarray(np.divide(2 * matched_R, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0))


def surface_errors(
    predicted_V: Bools, truth_V: Bools, spacing: Sequence[float], *, tolerance: float
) -> dict[str, float]:
    """Distances between the surfaces: `hausdorff95`, `mean_surface` (both ways), `surface_dice`.

    `spacing` per axis, `tolerance` and what comes out share one unit: mm of volumes, pixels of films.

    The surface is the voxels of a mask that have a face neighbour outside it; beyond the array all is outside. NaN where
    a mask is empty: no distance to a surface that is not there. An image of one slice is compared in its plane.
    Source: Nikolov et al. 2018 for the surface Dice; counted by voxels, as MONAI does without sub-voxels.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.ndimage import distance_transform_edt

    if predicted_V.shape != truth_V.shape:
        raise ValueError(f"prediction {predicted_V.shape} and truth {truth_V.shape} differ in shape")
    if not predicted_V.any() or not truth_V.any():
        return dict.fromkeys(("hausdorff95", "mean_surface", "surface_dice"), float("nan"))
    in_plane = [float(edge) for edge, size in zip(spacing, truth_V.shape, strict=True) if size > 1]
    box = _box_of(predicted_V | truth_V)
    predicted, truth = (_surface(mask[box].squeeze(_flat_axes(truth_V))) for mask in (predicted_V, truth_V))
    forth = distance_transform_edt(~truth, sampling=in_plane)[predicted]
    back = distance_transform_edt(~predicted, sampling=in_plane)[truth]
    both = np.concatenate([forth, back])
    return {
        "hausdorff95": float(max(np.quantile(forth, 0.95), np.quantile(back, 0.95))),
        "mean_surface": float(both.mean()),
        "surface_dice": float((both <= tolerance + 1e-6).mean()),
    }


def _flat_axes(array: Bools) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(array.shape) if size == 1)


def _box_of(mask_V: Bools) -> tuple[slice, ...]:
    """The smallest box that holds a mask; distances inside it need nothing beyond."""
    places = np.nonzero(mask_V)
    return tuple(slice(int(place.min()), int(place.max()) + 1) for place in places)


def _surface(mask_V: Bools) -> Bools:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask_V & ~binary_erosion(mask_V))
