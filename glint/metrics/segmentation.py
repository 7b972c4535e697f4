"""Overlap of masks: at one threshold, and at many in a single pass over the voxels."""

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
