"""One pass over the studies of a split: every arm's maps against every mask, to the voxel of the model's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.geometry import spacing_mm_zyx
from glint.core.progress import track
from glint.evaluation.cohort import Study, ValidBox, positive_labels
from glint.evaluation.maps import body_mask, upsample_logits
from glint.evaluation.zero_shot import Answers
from glint.metrics.grounding import (
    box_iou_scores,
    box_pointing_scores,
    contrast_to_noise_score,
    largest_boxes,
    mean_iou_score,
    pointing_score,
    random_pointing_score,
)
from glint.metrics.segmentation import (
    dice_curve_scores,
    dice_score,
    everything_dice_score,
    hit_score,
    instance_counts,
    iou_score,
    surface_errors,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Logit thresholds lowest + k * step, k = 0 … num - 1."""

    lowest: float
    step: float
    num: int

    def value(self, index: int) -> float:
        """The threshold at `index`."""
        return self.lowest + index * self.step


@dataclass(frozen=True, kw_only=True)
class ArmCases:
    """What one arm reached on F findings and B studies; NaN where a study has no mask of the finding on the grid.

    nonempty_FB: the mask at the fixed threshold holds a voxel. withdrawn_FB: the rule for absent findings empties it.
    dice_FBK: Dice at every threshold of `thresholds`.
    more_FB: further values by metric, NaN where a study has none. instances_FB3: matched, predicted and true instances.
    peak_FB: highest logit of the map within the scan. boxes_FB3: boxes of the truth, and of them those that the highest point
    meets strictly and within `LENIENT_SHARE` of the image's longest edge.
    drawn_B: studies whose masks were drawn; the others have labels alone, and no share in what looks at masks.
    """

    answers: Answers
    pointing_FB: Floats
    dice_FB: Floats
    nonempty_FB: Bools
    withdrawn_FB: Bools
    dice_FBK: Floats
    thresholds: Thresholds
    peak_FB: Floats
    more_FB: dict[str, Floats] = field(default_factory=dict)
    boxes_FB3: NDArray[np.int64]
    instances_FB3: NDArray[np.int64]
    drawn_B: Bools


# Boxes of a finding's mask that take part; more are specks.
MOST_BOXES = 5
# VECL lets a point miss by 20 of the 1,024 pixels of a film, a fiftieth of the edge; source: METHOD, evaluation.
LENIENT_SHARE = 20 / 1024


@dataclass(frozen=True, kw_only=True)
class ChanceCases:
    """What chance reaches on the same studies: a random point of the body, the whole body as mask."""

    pointing_FB: Floats
    dice_FB: Floats
    box_pointing_FB: Floats


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Everything measured on one split."""

    positive_FB: Bools
    study_B: tuple[str, ...]
    patient_B: tuple[str, ...]
    arms: dict[str, ArmCases]
    chance: ChanceCases


def inside(box: ValidBox) -> tuple[slice, slice, slice]:
    """Slices of the scan inside the padded grid."""
    z0, z1, y0, y1, x0, x1 = box
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)


def threshold_range(logits_FBP: NDArray[np.floating], num: int) -> Thresholds:
    """Thresholds from a low quantile of the patch logits to just below the highest: no finding fills most of a chest."""
    lowest, highest = float(np.quantile(logits_FBP, 0.2)), float(logits_FBP.max())
    return Thresholds(lowest=lowest, step=max(highest - lowest, 1e-6) / num, num=num)


def _blank(num_findings: int, num_studies: int) -> Floats:
    return np.full((num_findings, num_studies), np.nan)


DETAILS = (
    "iou_fixed",
    "hit",
    "mean_iou",
    "contrast_to_noise",
    "box_pointing",
    "box_iou",
    "surface_dice",
    "hausdorff95",
    "mean_surface",
)


def _empty_arm(answers: Answers, thresholds: Thresholds, config: EvaluateConfig) -> ArmCases:
    shape = answers.score_FB.shape
    return ArmCases(
        answers=answers,
        pointing_FB=_blank(*shape),
        dice_FB=_blank(*shape),
        nonempty_FB=np.zeros(shape, np.bool_),
        # Source: METHOD, read-outs: no mask without a patch's worth of evidence, or where "no finding" fits better.
        withdrawn_FB=(answers.mass_FB < config.empty_below_mass) | (answers.contrast_FB < 0),
        dice_FBK=np.full((*shape, thresholds.num), np.nan),
        thresholds=thresholds,
        peak_FB=_blank(*shape),
        boxes_FB3=np.zeros((*shape, 3), np.int64),
        more_FB={name: _blank(*shape) for name in DETAILS},
        instances_FB3=np.zeros((*shape, 3), np.int64),
        drawn_B=np.ones(shape[1], np.bool_),
    )


def measure(
    studies: Sequence[Study],
    answers: Mapping[str, Answers],
    thresholds: Mapping[str, Thresholds],
    findings: Sequence[str],
    config: EvaluateConfig,
    *,
    details: bool = True,
    description: str = "measure",
) -> Cases:
    """Compare the maps of every arm with the masks of every study; column b of every answer is studies[b].

    Without `details` only what a threshold is chosen by is filled in.
    """
    arms = {name: _empty_arm(given, thresholds[name], config) for name, given in answers.items()}
    shape = len(findings), len(studies)
    chance = ChanceCases(pointing_FB=_blank(*shape), dice_FB=_blank(*shape), box_pointing_FB=_blank(*shape))
    for column, study in enumerate(track(studies, description)):
        volume, affine = study.volume()
        spacing = spacing_mm_zyx(affine)  # films: the pixel is the unit
        scan = inside(study.valid_box)
        bits = study.bits()[scan]
        masks = {row: mask for row in range(len(findings)) if (mask := (bits >> row & 1).astype(np.bool_)).any()}
        boxes = {row: largest_boxes(mask, MOST_BOXES) for row, mask in masks.items()}
        body = body_mask(volume, config.body_above)[scan]
        for row, mask in masks.items():
            within = body | mask
            chance.pointing_FB[row, column] = random_pointing_score(mask, within)
            chance.dice_FB[row, column] = everything_dice_score(int(mask.sum()), int(within.sum()))
            chance.box_pointing_FB[row, column] = random_pointing_score(_filled(boxes[row], mask.shape), within)
        for arm in arms.values():
            arm.drawn_B[column] = study.truth_path is not None
            logits_FP = arm.answers.logits_FBP[:, column]
            map_FZYX = upsample_logits(logits_FP, arm.answers.grid, volume.shape)[(slice(None), *scan)]
            _measure_study(arm, column, map_FZYX, masks, config.mask_offset)
            if details:
                for row, mask in masks.items():
                    _measure_details(arm, row, column, map_FZYX[row], mask, boxes[row], spacing, config)
    return Cases(
        positive_FB=positive_labels(studies, findings),
        study_B=tuple(study.study_id for study in studies),
        patient_B=tuple(study.patient_id for study in studies),
        arms=arms,
        chance=chance,
    )


def _filled(boxes_K32: NDArray[np.int64], shape: tuple[int, ...]) -> Bools:
    """Voxels inside any of the boxes."""
    filled = np.zeros(shape, np.bool_)
    for box in boxes_K32:
        filled[tuple(slice(*ends) for ends in box)] = True
    return filled


def _measure_study(
    arm: ArmCases, column: int, map_FZYX: NDArray[np.float32], masks: Mapping[int, Bools], offset: float
) -> None:
    """Fill one study's column of `arm`; sigma(z + c) > 0.5 is z > -c."""
    arm.peak_FB[:, column] = map_FZYX.reshape(len(map_FZYX), -1).max(axis=1)
    arm.nonempty_FB[:, column] = arm.peak_FB[:, column] > -offset
    levels = arm.thresholds
    for row, mask in masks.items():
        heat = map_FZYX[row]
        arm.pointing_FB[row, column] = pointing_score(heat, mask)
        arm.dice_FB[row, column] = dice_score(heat > -offset, mask)
        arm.dice_FBK[row, column] = dice_curve_scores(
            heat, mask, lowest=levels.lowest, step=levels.step, num=levels.num
        )


def _measure_details(
    arm: ArmCases,
    row: int,
    column: int,
    heat_ZYX: NDArray[np.float32],
    mask_ZYX: Bools,
    boxes_K32: NDArray[np.int64],
    spacing: tuple[float, float, float],
    config: EvaluateConfig,
) -> None:
    """Fill one positive's further values: overlap, hit, contrast, boxes, surfaces and instances at the fixed threshold."""
    predicted = heat_ZYX > -config.mask_offset
    probability = 1 / (1 + np.exp(-(heat_ZYX + config.mask_offset)))
    surfaces = surface_errors(predicted, mask_ZYX, spacing, tolerance=config.surface_tolerance)
    if not predicted.any():
        surfaces["surface_dice"] = 0.0  # a distance to nothing is undefined, a boundary that was not drawn is missed
    found = largest_boxes(predicted, 1)
    strict = box_pointing_scores(heat_ZYX, boxes_K32)
    lenient = box_pointing_scores(heat_ZYX, boxes_K32, tolerance=LENIENT_SHARE * max(heat_ZYX.shape))
    arm.boxes_FB3[row, column] = len(boxes_K32), (strict >= 0.5).sum(), (lenient >= 0.5).sum()
    values = surfaces | {
        "iou_fixed": iou_score(predicted, mask_ZYX),
        "hit": hit_score(predicted, mask_ZYX),
        "mean_iou": mean_iou_score(probability, mask_ZYX),
        "contrast_to_noise": contrast_to_noise_score(heat_ZYX, mask_ZYX, absolute=False),
        "box_pointing": float(strict.max()),
        "box_iou": float(box_iou_scores(found, boxes_K32).max()) if len(found) else 0.0,
    }
    for name in DETAILS:
        arm.more_FB[name][row, column] = values[name]
    arm.instances_FB3[row, column] = instance_counts(predicted, mask_ZYX)


def best_threshold(dice_FBK: Floats) -> int:
    """Index of the one threshold with the highest mean over findings of the mean Dice over their positives."""
    per_finding = [np.nanmean(dice_BK, axis=0) for dice_BK in dice_FBK if not np.isnan(dice_BK).all()]
    return int(np.argmax(np.mean(per_finding, axis=0))) if per_finding else 0


def oracle_thresholds(dice_FBK: Floats) -> tuple[int, ...]:
    """Per finding the threshold that is best on these very studies: an upper bound, never a result."""
    return tuple(0 if np.isnan(one).all() else int(np.argmax(np.nanmean(one, axis=0))) for one in dice_FBK)
