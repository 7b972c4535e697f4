"""Do probabilities mean what they say, and how many false alarms does a cut-off let through?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Bins of a reliability plot that hold a case: mean probability, share of positives, cases."""

    probability_K: Floats
    positive_share_K: Floats
    cases_K: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean gap between probability and share of positives, by cases (ECE); NaN without a case."""
        if not self.cases_K.sum():
            return float("nan")
        return float(np.average(np.abs(self.probability_K - self.positive_share_K), weights=self.cases_K))


def reliability(probability_N: ArrayLike, positive_N: ArrayLike, *, bins: int = 10) -> Reliability:
    """Bins of equal width on [0, 1]; 1 belongs to the last.

    Source: Naeini et al. 2015; Guo et al. 2017 for the expected calibration error.

    Raises:
        ValueError: a value is no probability.
    """
    probability = np.asarray(probability_N, dtype=np.float64)
    positive = np.asarray(positive_N, dtype=np.bool_)
    if probability.shape != positive.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1], one for each label")
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    cases = np.bincount(place, minlength=bins)
    held = cases > 0
    total = np.bincount(place, weights=probability, minlength=bins)[held]
    share = np.bincount(place, weights=positive.astype(np.float64), minlength=bins)[held]
    return Reliability(probability_K=total / cases[held], positive_share_K=share / cases[held], cases_K=cases[held])


def fit_platt(score_N: ArrayLike, positive_N: ArrayLike) -> tuple[float, float]:
    """(a, b) of P = sigmoid(a * score + b) with the highest likelihood under softened targets.

    Targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep a perfect separation finite. Source: Platt 1999; Lin et al. 2007.

    Raises:
        ValueError: one class only, or a score is not finite.
    """
    from scipy.optimize import minimize

    score, positive = np.asarray(score_N, np.float64), np.asarray(positive_N, np.bool_)
    if positive.all() or not positive.any() or not np.isfinite(score).all():
        raise ValueError("Platt's scaling needs finite scores of both classes")
    num_positive, num_negative = positive.sum(), (~positive).sum()
    target = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    middle, spread = score.mean(), max(score.std(), 1e-12)
    unit = (score - middle) / spread

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logit = parameters[0] * unit + parameters[1]
        gap = 1 / (1 + np.exp(-logit)) - target
        return float(np.mean(np.logaddexp(0, logit) - target * logit)), np.array([np.mean(gap * unit), np.mean(gap)])

    scale, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(scale / spread), float(offset - scale * middle / spread)


def conformal_threshold(negative_score_N: ArrayLike, *, rate: float) -> float:
    """Cut-off above which at most a share `rate` of new negatives is expected to score; +inf where there are too few.

    The ceil((n + 1)(1 - rate))-th smallest of n calibration negatives. For a new negative that is exchangeable with them,
    P(score > cut-off) <= rate, whatever the model. Source: split conformal prediction (Vovk et al. 2005; Bates et al.
    2023 for outliers).

    Raises:
        ValueError: the rate is not between 0 and 1, or a score is NaN.
    """
    score = np.sort(np.asarray(negative_score_N, dtype=np.float64))
    if not 0 < rate < 1 or np.isnan(score).any():
        raise ValueError(f"rate {rate} must lie between 0 and 1, scores must not be NaN")
    place = math.ceil((len(score) + 1) * (1 - rate) - 1e-12)
    return float(score[place - 1]) if place <= len(score) else math.inf
