"""From scores to probabilities and to cut-offs with a promise, fitted on validation studies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.seeds import generator
from glint.evaluation.cohort import Study, positive_labels
from glint.evaluation.measure import Cases
from glint.evaluation.zero_shot import Answers
from glint.metrics.calibration import Reliability, conformal_threshold, fit_platt, reliability

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FEWEST = 8
RESPLITS = 200


@dataclass(frozen=True, kw_only=True)
class Cutoffs:
    """Per finding: Platt's (a, b) for the contrast, and the score above which a study is called.

    `own_F`: fitted on the finding's own validation studies; otherwise (fewer than 8 of a class) on all findings pooled.
    """

    platt_F2: Floats
    own_F: Bools
    cutoff_F: Floats


def fit_cutoffs(score_FB: Floats, contrast_FB: Floats, positive_FB: Bools, *, rate: float) -> Cutoffs | None:
    """Fit on validation answers; None where they hold one class only."""
    if positive_FB.all() or not positive_FB.any():
        return None
    pooled = fit_platt(contrast_FB.ravel(), positive_FB.ravel())
    counts = np.minimum(positive_FB.sum(axis=1), (~positive_FB).sum(axis=1))
    own = counts >= FEWEST
    platt = [
        fit_platt(contrast, positive) if enough else pooled
        for contrast, positive, enough in zip(contrast_FB, positive_FB, own, strict=True)
    ]
    cutoffs = [
        conformal_threshold(score[~positive], rate=rate) for score, positive in zip(score_FB, positive_FB, strict=True)
    ]
    return Cutoffs(platt_F2=np.array(platt), own_F=own, cutoff_F=np.array(cutoffs))


def probabilities(contrast_FB: Floats, cutoffs: Cutoffs) -> Floats:
    """(F, B) sigmoid(a * contrast + b)."""
    logit = cutoffs.platt_F2[:, :1] * contrast_FB + cutoffs.platt_F2[:, 1:]
    return np.asarray(1 / (1 + np.exp(-logit)))


def probability_values(
    score_FB: Floats, contrast_FB: Floats, positive_FB: Bools, cutoffs: Cutoffs
) -> dict[str, Floats]:
    """(F, B) values of measured studies.

    `brier`: squared error of the probability. `conformal_false_positives`: 1 if a study without the finding is called, NaN
    with it. `conformal_sensitivity`: 1 if a study with it is called, NaN without.
    """
    called = (score_FB > cutoffs.cutoff_F[:, None]).astype(np.float64)
    return {
        "brier": (probabilities(contrast_FB, cutoffs) - positive_FB) ** 2,
        "conformal_false_positives": np.where(positive_FB, np.nan, called),
        "conformal_sensitivity": np.where(positive_FB, called, np.nan),
    }


def reliability_of(contrast_FB: Floats, positive_FB: Bools, cutoffs: Cutoffs) -> Reliability:
    """Of all findings together."""
    return reliability(probabilities(contrast_FB, cutoffs).ravel(), positive_FB.ravel())


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Share of held-out negatives called, over random halves of the patients: mean, its standard error, the promise.

    `holds`: the mean is not above the promise by more than three standard errors.
    """

    rate: float
    resplits: int
    mean: float
    standard_error: float

    @property
    def holds(self) -> bool:
        """Whether the promise was kept within sampling error."""
        return self.mean <= self.rate + 3 * self.standard_error


def conformal_coverage(
    score_FB: Floats, positive_FB: Bools, patient_B: Sequence[str], *, rate: float, seed: int
) -> Coverage:
    """Fit each finding's cut-off on one random half of the patients, count calls among the other half's negatives, 200 times.

    Whole patients change halves, so that two studies of one patient are never on both sides. Splits share their patients:
    the standard error is that of a ratio over patients, and doesn't shrink with the number of splits.
    """
    rng = generator(seed, "conformal coverage")
    patients, place_B = np.unique(np.asarray(patient_B, dtype=str), return_inverse=True)
    shares = []
    called_P, negatives_P = np.zeros(len(patients)), np.zeros(len(patients))
    for _ in range(RESPLITS):
        fitting_B = (rng.permutation(len(patients)) < len(patients) // 2)[place_B]
        called = negatives = 0.0
        for score, positive in zip(score_FB, positive_FB, strict=True):
            cutoff = conformal_threshold(score[fitting_B & ~positive], rate=rate)
            asked = ~fitting_B & ~positive
            hits = asked & (score > cutoff)
            called, negatives = called + hits.sum(), negatives + asked.sum()
            called_P += np.bincount(place_B, weights=hits, minlength=len(patients))
            negatives_P += np.bincount(place_B, weights=asked, minlength=len(patients))
        shares.append(called / negatives if negatives else np.nan)
    mean = float(np.nanmean(shares)) if not np.isnan(shares).all() else float("nan")
    residual_P = called_P - mean * negatives_P
    error = float(np.sqrt((residual_P**2).sum()) / negatives_P.sum()) if negatives_P.sum() else float("nan")
    return Coverage(rate=rate, resplits=RESPLITS, mean=mean, standard_error=error)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far one arm's probabilities and promises hold on the measured studies."""

    cutoffs: Cutoffs
    reliability: Reliability
    coverage: Coverage


def trust_of(
    cases: Cases,
    arm: str,
    fitting: Answers,
    fitted_on: Sequence[Study],
    findings: Sequence[str],
    config: EvaluateConfig,
) -> tuple[Trust, dict[str, Floats]] | None:
    """Calibration and cut-offs from validation answers, and what they reach on the measured studies, as (F, B) values.

    None where the validation split can't be fitted on.
    """
    if not fitted_on:
        return None
    labels = positive_labels(fitted_on, findings)
    rate = config.false_positive_rate
    score_FB, contrast_FB = fitting.score_FB.astype(np.float64), fitting.contrast_FB.astype(np.float64)
    cutoffs = fit_cutoffs(score_FB, contrast_FB, labels, rate=rate)
    if cutoffs is None:
        return None
    answers, positive = cases.arms[arm].answers, cases.positive_FB
    measured_score, measured_contrast = answers.score_FB.astype(np.float64), answers.contrast_FB.astype(np.float64)
    coverage = conformal_coverage(
        np.concatenate([score_FB, measured_score], axis=1),
        np.concatenate([labels, positive], axis=1),
        [*(study.patient_id for study in fitted_on), *cases.patient_B],
        rate=rate,
        seed=config.seed,
    )
    trust = Trust(cutoffs=cutoffs, reliability=reliability_of(measured_contrast, positive, cutoffs), coverage=coverage)
    return trust, probability_values(measured_score, measured_contrast, positive, cutoffs)
