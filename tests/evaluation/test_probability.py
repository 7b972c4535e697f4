"""Cut-offs keep what they promise, and a promise that is broken is told."""

import numpy as np
import pytest

from glint.evaluation.probability import (
    Coverage,
    conformal_coverage,
    fit_cutoffs,
    probabilities,
    probability_values,
    reliability_of,
)


def drawn(seed, studies, *, shift=1.5):
    rng = np.random.default_rng(seed)
    positive = rng.random((3, studies)) < np.array([0.5, 0.3, 0.02])[:, None]
    score = rng.normal(size=(3, studies)) + shift * positive
    return score, 2 * score - 1, positive


def test_calibrated_probabilities_mean_what_they_say():
    score, contrast, positive = drawn(0, 400)
    cutoffs = fit_cutoffs(score, contrast, positive, rate=0.1)
    assert cutoffs.own_F.tolist() == [True, True, (positive[2].sum() >= 8)]
    _, more, truth = drawn(1, 4000)
    assert (
        reliability_of(
            more[:2], truth[:2], fit_cutoffs(score[:2], contrast[:2], positive[:2], rate=0.1)
        ).expected_calibration_error
        < 0.05
    )
    assert ((probabilities(more, cutoffs) >= 0) & (probabilities(more, cutoffs) <= 1)).all()


def test_a_finding_with_few_cases_borrows_the_pooled_curve_but_not_the_cut_off():
    score, contrast, positive = drawn(2, 60)
    cutoffs = fit_cutoffs(score, contrast, positive, rate=0.1)
    assert not cutoffs.own_F[2] and cutoffs.own_F[0]
    assert (score[2][~positive[2]] > cutoffs.cutoff_F[2]).mean() <= 0.1


def test_values_are_told_of_negatives_or_positives_alone():
    score, contrast, positive = drawn(3, 80)
    values = probability_values(score, contrast, positive, fit_cutoffs(score, contrast, positive, rate=0.2))
    assert (np.isnan(values["conformal_false_positives"]) == positive).all()
    assert (np.isnan(values["conformal_sensitivity"]) == ~positive).all()
    assert np.nanmean(values["conformal_false_positives"]) == pytest.approx(0.2, abs=0.03)


def test_the_promise_holds_over_random_halves_whatever_the_scores():
    for seed in range(3):
        score, _, positive = drawn(seed, 80, shift=0.2)
        patients = [f"p{k // 2}" for k in range(80)]
        coverage = conformal_coverage(score, positive, patients, rate=0.1, seed=seed)
        assert coverage.resplits == 200
        assert coverage.holds
        assert 0.05 < coverage.mean < 0.12


def test_a_broken_promise_is_told():
    assert not Coverage(rate=0.1, resplits=200, mean=0.2, standard_error=0.02).holds


def test_one_class_cannot_be_fitted():
    assert fit_cutoffs(np.zeros((2, 5)), np.zeros((2, 5)), np.zeros((2, 5), bool), rate=0.1) is None
