"""The same answers, counted as other papers count them: numbers that look alike and are not.

What each protocol counts is in its rows' `how`; thresholds that are chosen on the measured studies are called so. Sources: the
published code of RadZero, CARZero, VECL, fVLM, HLIP and MGCA, the descriptions of EXACT and ReXGroundingCT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.evaluation.measure import ArmCases, Cases, oracle_thresholds
from glint.metrics.classification import auroc_score, average_precision_score, roc_points

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of one protocol: its value per arm, NaN where an arm has none, and how it is counted."""

    protocol: str
    quantity: str
    how: str
    values: dict[str, float]


def _mean(values: Sequence[float] | Floats) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def _two_classes(positive_N: NDArray[np.bool_]) -> bool:
    return bool(positive_N.any() and not positive_N.all())


def _per_finding(
    measure: Callable[[NDArray[np.floating], NDArray[np.bool_]], float], arm: ArmCases, positive_FB: NDArray[np.bool_]
) -> float:
    pairs = zip(arm.answers.score_FB, positive_FB, strict=True)
    return _mean([measure(score, positive) for score, positive in pairs if _two_classes(positive)])


def macro_auroc(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    """Mean AUROC over findings that have both classes."""
    return _per_finding(auroc_score, arm, positive_FB)


def micro_average_precision(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    """Average precision over all pairs of finding and study at once."""
    return average_precision_score(arm.answers.score_FB.ravel(), positive_FB.ravel())


def weighted_f1_at_corner(score_N: NDArray[np.floating], positive_N: NDArray[np.bool_]) -> float:
    """F1 of both classes weighted by their size, at the threshold whose ROC point lies nearest to the corner (0, 1).

    The threshold is chosen on the very studies it is measured on.
    """
    false, true = roc_points(score_N, positive_N)
    cuts = np.concatenate([[np.inf], np.unique(score_N)[::-1]])
    called = score_N >= cuts[int(np.argmin(np.hypot(false, 1 - true)))]
    total = 0.0
    for label in (True, False):
        right = np.count_nonzero((called == label) & (positive_N == label))
        total += (positive_N == label).sum() * 2 * right / max(1, (called == label).sum() + (positive_N == label).sum())
    return float(total / len(positive_N))


def best_test_dice(arm: ArmCases) -> float:
    """Mean over findings of the positives' Dice at the threshold that is best on these studies."""
    oracle = oracle_thresholds(arm.dice_FBK)
    return _mean([_mean(dice_BK[:, cut]) for dice_BK, cut in zip(arm.dice_FBK, oracle, strict=True)])


def specificity_at_best_dice(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    """Share of negatives without a voxel above that threshold."""
    shares = []
    for peak, positive, cut in zip(arm.peak_FB, positive_FB, oracle_thresholds(arm.dice_FBK), strict=True):
        if not positive.all():
            shares.append(float((peak[~positive] <= arm.thresholds.value(cut)).mean()))
    return _mean(shares)


def hits_over(arm: ArmCases, least_dice: float) -> float:
    """Mean over findings of the share of positives whose mask reaches a Dice."""
    return _mean([_mean(np.where(np.isnan(dice), np.nan, dice >= least_dice)) for dice in arm.dice_FB])


def boxes_met(arm: ArmCases, *, lenient: bool) -> float:
    """Share of all boxes, pooled over findings and studies, that the map's highest point meets."""
    total = arm.boxes_FB3[..., 0].sum()
    return float(arm.boxes_FB3[..., 2 if lenient else 1].sum() / total) if total else float("nan")


def pooled_instance_f1(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    """2 matched / (predicted + true) over the instances of all positives."""
    matched, predicted, true = arm.instances_FB3[positive_FB].sum(axis=0)
    return float(2 * matched / (predicted + true)) if predicted + true else float("nan")


def _negated(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    denied_FB = arm.answers.score_FB - arm.answers.contrast_FB
    pairs = zip(denied_FB, ~positive_FB, strict=True)
    return _mean([auroc_score(score, absent) for score, absent in pairs if _two_classes(absent)])


def _contrast(arm: ArmCases, positive_FB: NDArray[np.bool_]) -> float:
    pairs = zip(arm.answers.contrast_FB, positive_FB, strict=True)
    return _mean([auroc_score(score, positive) for score, positive in pairs if _two_classes(positive)])


def protocol_rows(cases: Cases) -> list[Row]:
    """Every protocol on every arm's cases."""
    positive = cases.positive_FB
    counted: list[tuple[str, str, str, Callable[[ArmCases], float]]] = [
        ("CARZero", "AUROC", "positive prompt, macro over findings", lambda a: macro_auroc(a, positive)),
        ("CARZero", "AUPRC, macro", "positive prompt", lambda a: _per_finding(average_precision_score, a, positive)),
        ("CARZero", "AUPRC, micro", "all findings in one list", lambda a: micro_average_precision(a, positive)),
        ("RadZero", "AUROC", "positive prompt alone; the negative one is computed and not used", lambda a: macro_auroc(a, positive)),
        ("RadZero", "pointing", "the highest point in any box of the finding, macro over findings", lambda a: _mean([_mean(row) for row in a.more_FB["box_pointing"]])),
        ("RadZero", "Dice", "positives alone, threshold chosen on these studies", best_test_dice),
        ("RadZero", "specificity", "negatives without a voxel above that threshold", lambda a: specificity_at_best_dice(a, positive)),
        ("VECL", "AUC, POS", "positive prompt", lambda a: macro_auroc(a, positive)),
        ("VECL", "AUC, NEG", "negative prompt, absent findings", lambda a: _negated(a, positive)),
        ("VECL", "AUC, PNC", "positive minus negative prompt", lambda a: _contrast(a, positive)),
        ("VECL", "pointing", "per box, all boxes in one list, a point may miss by 2 % of the edge", lambda a: boxes_met(a, lenient=True)),
        ("VECL", "pointing, strict", "the same without the allowance", lambda a: boxes_met(a, lenient=False)),
        ("fVLM, HLIP", "AUROC", "macro over the findings asked here; they ask 16 of CT-RATE's 18", lambda a: macro_auroc(a, positive)),
        ("fVLM, HLIP", "F1, weighted", "threshold from the ROC curve of these studies", lambda a: _per_finding(weighted_f1_at_corner, a, positive)),
        ("EXACT", "DSC", "positives, fixed threshold, macro over findings", lambda a: _mean([_mean(row) for row in a.dice_FB])),
        ("EXACT", "HIT@5 %", "share of positives with a Dice of at least .05", lambda a: hits_over(a, 0.05)),
        ("EXACT", "HIT@10 %", "share of positives with a Dice of at least .10", lambda a: hits_over(a, 0.1)),
        ("ReXGroundingCT", "Dice", "every pair of finding and positive study weighs alike", lambda a: _mean(a.dice_FB.ravel())),
        ("ReXGroundingCT", "HIT", "the same, Dice of at least .1", lambda a: _mean(np.where(np.isnan(a.dice_FB), np.nan, a.dice_FB >= 0.1).ravel())),
        ("ReXGroundingCT", "instance F1", "connected parts matched with a Dice of at least .2", lambda a: pooled_instance_f1(a, positive)),
        ("MGCA", "Dice", "mask at 0.5 over all studies; both empty counts 1", lambda a: _mean(np.where(a.drawn_B, np.where(positive, a.dice_FB, np.where(a.nonempty_FB, 0.0, 1.0)), np.nan).ravel())),
    ]  # fmt: skip
    return [
        Row(
            protocol=protocol,
            quantity=quantity,
            how=how,
            values={name: measure(arm) for name, arm in cases.arms.items()},
        )
        for protocol, quantity, how, measure in counted
    ]
