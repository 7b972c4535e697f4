"""Reliability by hand, Platt's scaling against scikit-learn, and the coverage that conformal prediction promises."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from glint.metrics.calibration import conformal_threshold, fit_platt, reliability


def test_bins_and_error_equal_scikit_learns_and_the_definition():
    rng = np.random.default_rng(0)
    probability = rng.random(500)
    positive = rng.random(500) < probability**2
    found = reliability(probability, positive, bins=8)
    share, mean = calibration_curve(positive, probability, n_bins=8)
    assert np.allclose(found.positive_share_K, share) and np.allclose(found.probability_K, mean)
    gap = sum(
        abs(probability[held].mean() - positive[held].mean()) * held.sum() / 500
        for k in range(8)
        if (held := (probability >= k / 8) & (probability < (k + 1) / 8)).any()
    )
    assert found.expected_calibration_error == pytest.approx(gap)


def test_a_perfectly_calibrated_forecast_has_no_error():
    assert reliability([0.5, 0.5, 1.0, 0.0], [1, 0, 1, 0]).expected_calibration_error == 0.0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        reliability([1.2], [1])


def test_platt_equals_logistic_regression_on_softened_targets():
    rng = np.random.default_rng(1)
    score = rng.normal(3, 0.01, 300)
    positive = rng.random(300) < 1 / (1 + np.exp(-(score - 3) * 200))
    a, b = fit_platt(score, positive)
    high, low = (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2)
    # The softened likelihood is that of every case seen twice, once as each class, by weight.
    weight = np.concatenate([np.where(positive, high, low), 1 - np.where(positive, high, low)])
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=10000).fit(
        np.tile((score - 3) * 100, 2)[:, None], np.repeat([1, 0], 300), sample_weight=weight
    )
    assert a == pytest.approx(oracle.coef_[0, 0] * 100, rel=1e-3)
    assert b == pytest.approx(oracle.intercept_[0] - 300 * oracle.coef_[0, 0], rel=1e-3)


def test_platt_stays_finite_where_scores_separate_the_classes():
    a, b = fit_platt([0.0, 0.1, 0.9, 1.0], [0, 0, 1, 1])
    assert a > 0 and math.isfinite(b)
    with pytest.raises(ValueError, match="both classes"):
        fit_platt([0.0, 1.0], [1, 1])


@pytest.mark.parametrize(("num", "rate"), [(19, 0.05), (60, 0.1), (13, 0.25)])
def test_new_negatives_exceed_the_cut_off_no_more_often_than_promised(num, rate):
    rng = np.random.default_rng(2)
    drawn = rng.exponential(size=(4000, num + 1))
    exceeded = np.mean([row[-1] > conformal_threshold(row[:-1], rate=rate) for row in drawn])
    # Exact for continuous scores: 1 - ceil((n + 1)(1 - rate)) / (n + 1).
    exact = 1 - math.ceil((num + 1) * (1 - rate) - 1e-12) / (num + 1)
    assert exact <= rate + 1e-12
    assert exceeded == pytest.approx(exact, abs=4 * math.sqrt(rate / 4000))


def test_too_few_negatives_let_nothing_through():
    assert conformal_threshold([1.0, 2.0], rate=0.1) == math.inf
    with pytest.raises(ValueError, match="rate"):
        conformal_threshold([1.0], rate=1.5)
