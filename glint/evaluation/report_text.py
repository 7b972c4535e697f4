"""What the report says in words: rules of the read-outs, how to read the numbers, what they cannot tell."""

import math
from typing import TYPE_CHECKING

from glint.evaluation.figures import label, words
from glint.evaluation.summary import Difference, Estimate

if TYPE_CHECKING:
    from glint.evaluation.report import Evaluation


def number(value: float | None) -> str:
    """Two decimals without the leading zero's noise; a dash for NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def interval(one: Estimate | Difference | None) -> str:
    """`low to high`, empty where there is none or where it is a point."""
    return "" if one is None else ends(one.low, one.high)


def ends(low: float, high: float) -> str:
    """Both ends, empty where they are one or unknown."""
    if math.isnan(low) or low == high:
        return ""
    return f"{low:z.2f} to {high:z.2f}".replace("-", "\N{MINUS SIGN}")


MAPS = {
    "likelihood": "gate logits without the learned bias (where the sentence fits better than it fits a patch at large)",
    "posterior": "gate logits",
}


def rules_text(evaluation: "Evaluation") -> list[str]:
    """How scores and masks are read out, threshold by threshold."""
    config = evaluation.config
    cuts = ", ".join(f"{label(arm)} {value:.2f}" for arm, value in evaluation.summary.calibrated_logit.items())
    pooled = ", ".join(f"{words(name)} {num}" for name, num in evaluation.pooled.items())
    lines = [
        "Score of a finding: the positive prompt's; contrast: positive minus negative prompt. Templates are averaged.",
        f"Mask at the fixed threshold: {MAPS[config.mask_rule]} interpolated trilinearly to the voxels, sigmoid(map + c) above "
        f"0.5 with c = {config.mask_offset:g}. No mask chose it.",
        "Global pooling's map is its own calibrated answer asked of each patch, scale * cosine + bias, with the scale and bias "
        "that it learned for whole volumes, read by the same rule.",
        f"Withdrawn masks: emptied where the gate mass is below {config.empty_below_mass:g} patches or the negative prompt fits better.",
        f"Probability: sigmoid(a * contrast + b), a and b by Platt's scaling on the validation split, per finding where it has 8 of each class. "
        f"Cut-off: conformal, at most {100 * config.false_positive_rate:g} % of studies without the finding called.",
        "Chance: AUROC 0.5; pointing, the share of the body that the mask fills; Dice, IoU and HIT, the whole body called the finding; contrast 0.",
    ]
    if cuts:
        lines.insert(3, f"Calibrated Dice used validation masks: one logit threshold per arm ({cuts}).")
    if pooled:
        lines.append(f"The probe's score of a study is the mean of its k highest patch logits: {pooled}.")
    return lines


READING = (
    "AUROC 0.5 is guessing, 1 is perfect ranking. Pointing asks whether the map's single highest voxel lies in the mask.",
    "A probe far above GLINT means that the tokens hold what the sentences did not teach; a probe near chance means that the "
    "teacher or the patch is too coarse for the finding, and no alignment can help.",
    "GLINT above global pooling in AUROC shows better ranking; in pointing and Dice it shows that the gate looks at the finding.",
    "GLINT below the location prior in pointing means that it knows no more than where such findings tend to be.",
    "The fixed threshold is the result that a user gets without masks. The calibrated one needs some; the oracle is a bound.",
    "Intervals speak of patients like these. Where two overlap, look at the paired differences.",
)


def limits_text(evaluation: "Evaluation") -> list[str]:
    """What the numbers cannot tell."""
    positive = evaluation.cases.positive_FB.sum(axis=1)
    rare = [words(name) for name, num in zip(evaluation.findings, positive, strict=True) if num < 10]
    lines = [
        "Overlap is measured on the model's grid; boundaries finer than its voxels are not judged.",
        "Interval ends are percentiles; with few positives they are too narrow rather than too wide.",
        "Resamples in which a finding has one class only leave it out of that resample's macro mean.",
    ]
    if rare:
        lines.append(f"Fewer than 10 positives: {', '.join(rare)}. Read these rows as anecdotes.")
    if evaluation.left_out:
        lines.append(f"{evaluation.left_out} studies of the split lack masks or teacher tokens and were left out.")
    if evaluation.sentences is not None:
        lines.append(
            "Sentences are asked where their place was drawn: how the map answers a sentence that is not true of the study is not measured by them."
        )
    if "00_demo" in evaluation.config.truth_dir:
        lines.append("The cohort is synthetic: it tests the method and the pipeline, not the clinic.")
    return lines
