"""Ranking metrics against scikit-learn, over random and awkward inputs."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score as reference_ap
from sklearn.metrics import roc_auc_score as reference_auroc
from sklearn.metrics import roc_curve as reference_roc

from glint.metrics.classification import (
    auroc_score,
    auroc_scores,
    average_precision_score,
    average_precision_scores,
    roc_points,
)

CASES = [
    ("spread", lambda rng, n: rng.normal(size=n)),
    ("many ties", lambda rng, n: rng.integers(0, 4, n).astype(float)),
    ("all equal", lambda rng, n: np.full(n, 0.3)),
]


def both_classes(rng, size):
    positive = rng.random(size) < 0.3
    positive[:2] = (True, False)
    return positive


@pytest.mark.parametrize(("name", "scores"), CASES)
@pytest.mark.parametrize("size", [2, 3, 17, 200])
def test_scores_equal_scikit_learn(name, scores, size):
    rng = np.random.default_rng(size)
    positive, score = both_classes(rng, size), scores(rng, size)
    assert auroc_score(score, positive) == pytest.approx(reference_auroc(positive, score), abs=1e-12)
    assert average_precision_score(score, positive) == pytest.approx(reference_ap(positive, score), abs=1e-12)


@pytest.mark.parametrize(("name", "scores"), CASES)
def test_every_resample_equals_scikit_learn_with_these_sample_weights(name, scores):
    rng = np.random.default_rng(5)
    positive, score = both_classes(rng, 60), scores(rng, 60)
    weight_RN = rng.integers(0, 4, (20, 60))
    auroc, precision = auroc_scores(score, positive, weight_RN), average_precision_scores(score, positive, weight_RN)
    for row, weight in enumerate(weight_RN):
        assert auroc[row] == pytest.approx(reference_auroc(positive, score, sample_weight=weight), abs=1e-12)
        assert precision[row] == pytest.approx(reference_ap(positive, score, sample_weight=weight), abs=1e-12)


def test_a_weight_of_two_equals_the_study_written_twice():
    score, positive = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    once = auroc_scores(score, positive, [[1, 2, 3, 1]])[0]
    repeated = np.repeat(np.arange(4), [1, 2, 3, 1])
    assert once == pytest.approx(auroc_score(score[repeated], positive[repeated]))


@pytest.mark.parametrize("positive", [[True, True, True], [False, False, False], []])
def test_one_class_alone_has_no_auroc(positive):
    score = np.arange(len(positive), dtype=float)
    assert np.isnan(auroc_score(score, positive))
    assert np.isnan(average_precision_score(score, positive)) == (not any(positive))
    with pytest.raises(ValueError, match="both classes"):
        roc_points(score, positive)


def test_a_resample_without_one_class_is_nan_and_the_others_are_not():
    scores = auroc_scores([0.1, 0.9, 0.4], [False, True, False], [[1, 0, 1], [1, 1, 1], [0, 2, 0]])
    assert np.isnan(scores).tolist() == [True, False, True]


def test_scores_that_are_nan_are_refused_and_infinite_ones_rank_last_and_first():
    with pytest.raises(ValueError, match="NaN"):
        auroc_score([0.1, np.nan], [True, False])
    assert auroc_score([-np.inf, -np.inf, np.inf], [False, False, True]) == 1.0


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="lengths differ"):
        auroc_score([0.1, 0.2], [True])


@pytest.mark.parametrize(("name", "scores"), CASES)
def test_the_roc_curve_equals_scikit_learn(name, scores):
    rng = np.random.default_rng(9)
    positive, score = both_classes(rng, 80), scores(rng, 80)
    false, true = roc_points(score, positive)
    expected_false, expected_true, _ = reference_roc(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    assert np.trapezoid(true, false) == pytest.approx(auroc_score(score, positive))
