"""Ranking metrics of one finding, for one weighting of the studies or for many at once.

`weight_RN` counts how often each of R resamples draws each of N studies; the bootstrap needs no loop over resamples.
A metric that is not defined (one class only) is NaN, never a made-up number.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def _grouped_weights(
    score_N: ArrayLike, positive_N: ArrayLike, weight_RN: ArrayLike, *, descending: bool
) -> tuple[Floats, Floats]:
    """Weights of positives and negatives per group of equal scores, groups in order of score: two (R, G) arrays.

    Raises:
        ValueError: a score is NaN, or the lengths differ.
    """
    score = np.asarray(score_N, dtype=np.float64)
    positive = np.asarray(positive_N, dtype=np.bool_)
    weight = np.atleast_2d(np.asarray(weight_RN, dtype=np.float64))
    if not score.shape == positive.shape == weight.shape[1:]:
        raise ValueError(f"lengths differ: {score.shape} scores, {positive.shape} labels, {weight.shape[1:]} weights")
    if np.isnan(score).any():
        raise ValueError("a score is NaN; leave the study out or score it")
    if not score.size:
        return np.zeros((len(weight), 1)), np.zeros((len(weight), 1))
    order = np.argsort(-score if descending else score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    ordered, is_positive = weight[:, order], positive[order]
    positives: Floats = np.add.reduceat(ordered * is_positive, starts, axis=1)
    negatives: Floats = np.add.reduceat(ordered * ~is_positive, starts, axis=1)
    return positives, negatives


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    undefined = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))


def auroc_scores(score_N: ArrayLike, positive_N: ArrayLike, weight_RN: ArrayLike) -> Floats:
    """(R,) areas under the ROC curve: the weighted share of (positive, negative) pairs in the right order, ties half.

    NaN where a resample holds one class only.
    """
    positives_RG, negatives_RG = _grouped_weights(score_N, positive_N, weight_RN, descending=False)
    below_RG = np.cumsum(negatives_RG, axis=1) - negatives_RG
    won_R = (positives_RG * (below_RG + 0.5 * negatives_RG)).sum(axis=1)
    return _divide(won_R, positives_RG.sum(axis=1) * negatives_RG.sum(axis=1))


def average_precision_scores(score_N: ArrayLike, positive_N: ArrayLike, weight_RN: ArrayLike) -> Floats:
    """(R,) areas under the precision-recall curve as a step function (average precision); equal scores enter at once.

    NaN where a resample holds no positive. Its chance level is the prevalence.
    """
    positives_RG, negatives_RG = _grouped_weights(score_N, positive_N, weight_RN, descending=True)
    found_RG = np.cumsum(positives_RG, axis=1)
    precision_RG = _divide(found_RG, found_RG + np.cumsum(negatives_RG, axis=1))
    return _divide(np.nansum(positives_RG * precision_RG, axis=1), positives_RG.sum(axis=1))


def auroc_score(score_N: ArrayLike, positive_N: ArrayLike) -> float:
    """Area under the ROC curve, every study once."""
    return float(auroc_scores(score_N, positive_N, np.ones((1, np.size(score_N))))[0])


def average_precision_score(score_N: ArrayLike, positive_N: ArrayLike) -> float:
    """Average precision, every study once."""
    return float(average_precision_scores(score_N, positive_N, np.ones((1, np.size(score_N))))[0])


def roc_points(score_N: ArrayLike, positive_N: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1). Raises ValueError for one class."""
    positives, negatives = _grouped_weights(score_N, positive_N, np.ones((1, np.size(score_N))), descending=True)
    if not positives.sum() or not negatives.sum():
        raise ValueError("a ROC curve needs both classes")
    true = np.concatenate([[0.0], np.cumsum(positives[0]) / positives.sum()])
    false = np.concatenate([[0.0], np.cumsum(negatives[0]) / negatives.sum()])
    return false, true
