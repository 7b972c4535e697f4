"""From cases to numbers with intervals: per finding and arm, macro means, paired differences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.core.seeds import generator
from glint.evaluation.measure import ArmCases, Cases, oracle_thresholds
from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval, weighted_means
from glint.metrics.classification import auroc_scores, average_precision_scores
from glint.metrics.segmentation import false_positive_image_errors, instance_f1_scores

Floats = NDArray[np.float64]
Measure = Callable[[int, NDArray[np.generic]], Floats]
MACRO = "macro"
CHANCE = "chance"
HIT_DICE = 0.1

METRICS: dict[str, str] = {
    "auroc": "AUROC of the positive prompt",
    "auroc_contrast": "AUROC of positive minus negative prompt",
    "average_precision": "Average precision of the positive prompt",
    "pointing": "Pointing: the map's highest voxel lies in the mask (positives)",
    "dice_fixed": "Dice at the fixed threshold: no mask chose it (positives)",
    "dice_calibrated": "Calibrated Dice: one threshold per arm, fitted on validation masks (positives)",
    "dice_oracle": "Oracle Dice: the best test threshold per finding, an upper bound and no result (positives)",
    "dice_all": "Dice at the fixed threshold over all studies; both empty counts 1",
    "dice_all_withdrawn": "Dice over all studies, masks withdrawn where the finding seems absent",
    "auroc_negated": "AUROC of the negative prompt for studies without the finding",
    "iou_fixed": "IoU at the fixed threshold (positives)",
    "mean_iou": "Mean IoU over thresholds of 0.1 to 0.5 (positives)",
    "hit": "HIT: Dice of at least 0.1 at the fixed threshold (positives)",
    "instance_f1": "Instance F1: connected parts matched with Dice of at least 0.2 (positives)",
    "surface_dice": "Surface Dice: share of the boundaries met within the tolerance (positives; no mask counts 0)",
    "hausdorff95": "Hausdorff distance, 95th percentile (mm, pixels on films; positives with a mask; lower is better)",
    "mean_surface": "Mean surface distance (mm, pixels on films; positives with a mask; lower is better)",
    "contrast_to_noise": "Contrast to noise: map inside against outside the mask, signed (positives)",
    "box_pointing": "Box pointing: the map's highest voxel lies in a box round the mask (positives)",
    "box_iou": "Box IoU: box of the mask's largest part against the best box of the truth (positives)",
    "side_moves": "Sides: naming the right instead of the left carries a tenth of the map across (findings of one side)",
    "side_shift": "Side shift: share of the map that the named side draws over (findings of one side)",
    "side_score": "Side score: the true side's sentence scores above the wrong side's (findings of one side)",
    "erasure_drop": "Erasure: fall of the score once the called patches are erased (positives)",
    "erasure_excess": "Erasure excess: that fall beyond the one from erasing as many other patches (positives)",
    "erasure_faithful": "Erasure faithful: share with such an excess above 0 (positives)",
    "brier": "Brier score of the calibrated probability (lower is better)",
    "conformal_false_positives": "Conformal false positives: share of studies without the finding that are called (at most the promised rate)",
    "conformal_sensitivity": "Conformal sensitivity: share of studies with the finding that are called at that cut-off",
    "false_positive_images": "Share of negatives with a mask at the fixed threshold (lower is better)",
    "false_positive_images_withdrawn": "Share of negatives with a mask, masks withdrawn where the finding seems absent (lower is better)",
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number and its bootstrap interval; `finding` may be `macro`. NaN where it is not defined."""

    arm: str
    finding: str
    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First arm minus another, on the same resamples; `share_above` of them lie above 0."""

    metric: str
    first: str
    second: str
    value: float
    low: float
    high: float
    share_above: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All estimates, the paired differences of the first arm's macro means, and the thresholds behind them."""

    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]
    calibrated_logit: dict[str, float]

    def find(self, arm: str, metric: str, finding: str = MACRO) -> Estimate | None:
        """The estimate, or None."""
        return self._index().get((arm, finding, metric))

    def _index(self) -> dict[tuple[str, str, str], Estimate]:
        return {(one.arm, one.finding, one.metric): one for one in self.estimates}


def arm_measures(arm: ArmCases, positive_FB: NDArray[np.bool_], calibrated: int | None) -> dict[str, Measure]:
    """Metric → function of (finding, resample weights (R, B)) → (R,)."""
    answers, empty_FB = arm.answers, np.where(arm.nonempty_FB, 0.0, 1.0)
    oracle = oracle_thresholds(arm.dice_FBK)
    kept_FB = arm.nonempty_FB & ~arm.withdrawn_FB
    all_FB = np.where(arm.drawn_B, np.where(positive_FB, arm.dice_FB, empty_FB), np.nan)
    all_kept_FB = np.where(positive_FB, np.where(arm.withdrawn_FB, 0.0, arm.dice_FB), np.where(kept_FB, 0.0, 1.0))
    all_kept_FB = np.where(np.isnan(all_FB), np.nan, all_kept_FB)
    measures: dict[str, Measure] = {
        "auroc": lambda f, w: auroc_scores(answers.score_FB[f], positive_FB[f], w),
        "auroc_contrast": lambda f, w: auroc_scores(answers.contrast_FB[f], positive_FB[f], w),
        "average_precision": lambda f, w: average_precision_scores(answers.score_FB[f], positive_FB[f], w),
        "pointing": lambda f, w: weighted_means(arm.pointing_FB[f], w),
        "dice_fixed": lambda f, w: weighted_means(arm.dice_FB[f], w),
        "dice_oracle": lambda f, w: weighted_means(arm.dice_FBK[f, :, oracle[f]], w),
        "dice_all": lambda f, w: weighted_means(all_FB[f], w),
        "dice_all_withdrawn": lambda f, w: weighted_means(all_kept_FB[f], w),
        "false_positive_images": lambda f, w: false_positive_image_errors(arm.nonempty_FB[f], positive_FB[f], w),
        "false_positive_images_withdrawn": lambda f, w: false_positive_image_errors(kept_FB[f], positive_FB[f], w),
    }
    denied_FB = answers.contrast_FB - answers.score_FB  # minus the negative prompt's score: high where it fits badly
    measures["auroc_negated"] = lambda f, w: auroc_scores(denied_FB[f], positive_FB[f], w)
    measures["instance_f1"] = lambda f, w: instance_f1_scores(arm.instances_FB3[f], positive_FB[f], w)
    for name, value_FB in arm.more_FB.items():
        measures[name] = lambda f, w, value_FB=value_FB: weighted_means(value_FB[f], w)  # type: ignore[misc]
    if calibrated is not None:
        measures["dice_calibrated"] = lambda f, w: weighted_means(arm.dice_FBK[f, :, calibrated], w)
    return measures


def chance_measures(cases: Cases) -> dict[str, Measure]:
    """Chance level of every metric that has one: guessing, a random point, the whole body as mask, no mask."""
    chance, positive_FB = cases.chance, cases.positive_FB
    flat = np.zeros(positive_FB.shape[1])
    drawn_B = next(iter(cases.arms.values())).drawn_B
    never_FB = np.where(drawn_B, np.where(positive_FB, 0.0, 1.0), np.nan)
    dice: Measure = lambda f, w: weighted_means(chance.dice_FB[f], w)  # noqa: E731 (one of a table of measures)
    hit_FB = np.where(np.isnan(chance.dice_FB), np.nan, chance.dice_FB >= HIT_DICE)
    # The whole body is one mask at every threshold, and Dice of one mask is 2 IoU / (1 + IoU).
    iou: Measure = lambda f, w: weighted_means(chance.dice_FB[f] / (2 - chance.dice_FB[f]), w)  # noqa: E731
    even: Measure = lambda f, w: np.full(len(w), 0.5)  # noqa: E731
    return {
        "auroc": lambda f, w: auroc_scores(flat, positive_FB[f], w),
        "auroc_contrast": lambda f, w: auroc_scores(flat, positive_FB[f], w),
        "average_precision": lambda f, w: average_precision_scores(flat, positive_FB[f], w),
        "auroc_negated": lambda f, w: auroc_scores(flat, positive_FB[f], w),
        "pointing": lambda f, w: weighted_means(chance.pointing_FB[f], w),
        "box_pointing": lambda f, w: weighted_means(chance.box_pointing_FB[f], w),
        "side_score": even,
        "erasure_faithful": even,
        "dice_fixed": dice,
        "iou_fixed": iou,
        "mean_iou": iou,
        "hit": lambda f, w: weighted_means(hit_FB[f], w),
        "contrast_to_noise": lambda f, w: weighted_means(np.where(np.isnan(chance.dice_FB[f]), np.nan, 0.0), w),
        "dice_calibrated": dice,
        "dice_oracle": dice,
        "dice_all": lambda f, w: weighted_means(never_FB[f], w),
        "dice_all_withdrawn": lambda f, w: weighted_means(never_FB[f], w),
    }


def _estimates(
    arm: str, measures: Mapping[str, Measure], findings: Sequence[str], weight_RB: NDArray[np.generic], level: float
) -> Iterator[tuple[Estimate, Floats]]:
    """Every estimate of one arm with its values over point (row 0) and resamples; macro means follow their findings."""
    for metric, measure in measures.items():
        rows = np.stack([measure(row, weight_RB) for row in range(len(findings))])
        for name, values in (*zip(findings, rows, strict=True), (MACRO, macro_means(rows))):
            low, high = percentile_interval(values[1:], level=level)
            estimate = Estimate(arm=arm, finding=name, metric=metric, value=float(values[0]), low=low, high=high)
            yield estimate, values


def summarise(
    cases: Cases,
    findings: Sequence[str],
    *,
    calibrated: Mapping[str, int] | None,
    resamples: int,
    level: float,
    seed: int,
) -> Summary:
    """Point estimates, intervals over resampled patients, and paired differences on the same resamples.

    `calibrated` names every arm's threshold fitted on validation masks, or is None where there were none.
    """
    drawn = patient_weights(cases.patient_B, resamples=resamples, rng=generator(seed, "bootstrap"))
    weight_RB = np.concatenate([np.ones((1, drawn.shape[1]), drawn.dtype), drawn])  # row 0: the sample itself
    tables = {
        name: arm_measures(arm, cases.positive_FB, None if calibrated is None else calibrated[name])
        for name, arm in cases.arms.items()
    }
    tables[CHANCE] = {
        metric: measure
        for metric, measure in chance_measures(cases).items()
        if calibrated is not None or metric != "dice_calibrated"
    }
    found = [pair for name, table in tables.items() for pair in _estimates(name, table, findings, weight_RB, level)]
    macro = {(one.arm, one.metric): values for one, values in found if one.finding == MACRO}
    logits = {name: cases.arms[name].thresholds.value(index) for name, index in (calibrated or {}).items()}
    return Summary(
        estimates=tuple(one for one, _ in found),
        differences=tuple(_differences(macro, first=next(iter(cases.arms)), level=level)),
        calibrated_logit=logits,
    )


def _differences(macro: Mapping[tuple[str, str], Floats], *, first: str, level: float) -> Iterator[Difference]:
    for (arm, metric), values in macro.items():
        if arm == first or (first, metric) not in macro:
            continue
        gap = macro[first, metric] - values
        low, high = percentile_interval(gap[1:], level=level)
        known = gap[1:][~np.isnan(gap[1:])]
        yield Difference(
            metric=metric,
            first=first,
            second=arm,
            value=float(gap[0]),
            low=low,
            high=high,
            share_above=float((known > 0).mean()) if known.size else float("nan"),
        )
