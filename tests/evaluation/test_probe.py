"""The yardstick is an ordinary logistic regression, fitted on what it says it is."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from glint.core.config.evaluate import ProbeConfig
from glint.evaluation.probe import (
    Marked,
    draw_patches,
    fit_logistic,
    fit_probe,
    gate_mass,
    location_answers,
    log_losses,
    pooled_scores,
)
from glint.metrics.classification import auroc_score

GRID = (2, 3, 2)


def test_the_fit_equals_scikit_learn():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(400, 5)).astype(np.float32)
    target = (tokens @ rng.normal(size=(5, 2)) + rng.normal(size=(400, 2)) > 0.8).astype(bool)
    weight = rng.uniform(0.5, 2, 400).astype(np.float32)
    ridges = (0.001, 0.1)
    fitted = fit_logistic(tokens, target, weight, ridges=ridges, iterations=200)
    for finding, (ridge, (found_weight, found_bias)) in itertools.product(range(2), zip(ridges, fitted, strict=True)):
        reference = LogisticRegression(C=1 / (ridge * weight.sum()), tol=1e-8, max_iter=1000)
        reference.fit(tokens, target[:, finding], sample_weight=weight)
        np.testing.assert_allclose(found_weight[:, finding], reference.coef_[0], atol=2e-3)
        assert found_bias[finding] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_drawn_patches_keep_all_findings_and_the_total_weight():
    target = np.zeros((1000, 2), bool)
    target[:30, 0] = target[20:50, 1] = True
    rows, weight = draw_patches(target, limit=250, seed=3)
    assert set(range(50)) <= set(rows)
    assert len(rows) == len(set(rows)) == 250
    assert weight.sum() == pytest.approx(1000)
    assert (weight @ target[rows])[0] == pytest.approx(30)
    again, _ = draw_patches(target, limit=250, seed=3)
    assert (rows == again).all()
    rows, weight = draw_patches(target, limit=5000, seed=3)
    assert len(rows) == 1000
    assert (weight == 1).all()


def test_a_study_scores_by_its_highest_valid_patches():
    logits = np.array([[5.0, 1.0, 9.0, 3.0], [0.0, -1.0, -2.0, 7.0]], np.float32)
    valid = np.array([[True, True, False, True], [True, True, False, False]])
    np.testing.assert_allclose(pooled_scores(logits, valid, 1), [5.0, 0.0])
    np.testing.assert_allclose(pooled_scores(logits, valid, 2), [4.0, -0.5])
    np.testing.assert_allclose(pooled_scores(logits, valid, 50), [3.0, -0.5])


def test_a_mask_smaller_than_a_patch_still_marks_its_fullest_patch():
    fraction = np.zeros((1, 2, 12), np.float32)
    fraction[0, 0, [2, 3, 4]] = (0.05, 0.10, 0.02)
    fraction[0, 1, [1, 5, 6]] = (0.9, 0.3, 0.1)
    marked = Marked(
        tokens_BPD=np.zeros((2, 12, 1)),
        fraction_FBP=fraction,
        valid_BP=np.ones((2, 12), bool),
        positive_FB=np.ones((1, 2), bool),
    )
    assert np.flatnonzero(marked.targets(0.25)[:, 0]).tolist() == [3, 12 + 1, 12 + 5]


def planted(rng, studies):
    """Tokens whose first channel tells finding 0; finding 1 is told by nothing."""
    tokens = rng.normal(size=(studies, 12, 6)).astype(np.float16)
    fraction = np.zeros((2, studies, 12), np.float32)
    positive = np.zeros((2, studies), bool)
    for finding, study in np.ndindex(2, studies):
        if rng.random() < 0.5:
            positive[finding, study] = True
            place = rng.integers(12)
            fraction[finding, study, place] = 1
            tokens[study, place, 0] += 8 * (finding == 0)
    valid = np.ones((studies, 12), bool)
    return Marked(tokens_BPD=tokens, fraction_FBP=fraction, valid_BP=valid, positive_FB=positive)


@pytest.mark.parametrize("with_validation", [True, False])
def test_the_probe_finds_what_tokens_tell_and_no_more(with_validation):
    rng = np.random.default_rng(5)
    training, validation, test = planted(rng, 60), planted(rng, 20), planted(rng, 60)
    probe = fit_probe(training, validation if with_validation else None, ProbeConfig(), seed=0)
    answers = probe.answers(test.tokens_BPD, test.valid_BP, GRID)
    assert auroc_score(answers.score_FB[0], test.positive_FB[0]) > 0.97
    assert 0.3 < auroc_score(answers.score_FB[1], test.positive_FB[1]) < 0.7
    place = answers.logits_FBP[0].argmax(axis=1)
    hit = test.fraction_FBP[0, np.arange(60), place] == 1
    assert hit[test.positive_FB[0]].mean() > 0.95


def test_validation_picks_the_strong_ridge_where_tokens_tell_nothing():
    rng = np.random.default_rng(6)
    training, validation = planted(rng, 12), planted(rng, 40)
    probe = fit_probe(training, validation, ProbeConfig(ridges=(1e-7, 10.0)), seed=0)
    assert np.abs(probe.weight_DF[:, 1]).max() < 0.1 < np.abs(probe.weight_DF[:, 0]).max()


def test_log_loss_equals_its_definition():
    rng = np.random.default_rng(7)
    logits, target = rng.normal(size=(50, 2)).astype(np.float32), rng.random((50, 2)) < 0.4
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.where(target, np.log(probability), np.log(1 - probability)).mean(axis=0)
    np.testing.assert_allclose(log_losses(logits, target), expected, rtol=1e-5)


def test_the_location_prior_is_blind_to_the_image():
    fraction = np.zeros((1, 10, 12), np.float32)
    fraction[0, :7, 4] = 1
    fraction[0, 7:, 9] = 0.5
    valid = np.ones((3, 12), bool)
    answers = location_answers(fraction, valid, GRID)
    assert (answers.logits_FBP.argmax(axis=2) == 4).all()
    assert np.ptp(answers.score_FB) == 0
    np.testing.assert_allclose(1 / (1 + np.exp(-answers.logits_FBP[0, 0, [4, 9]])), [0.7, 0.15], rtol=1e-4)
    np.testing.assert_allclose(answers.mass_FB, gate_mass(answers.logits_FBP, valid))
