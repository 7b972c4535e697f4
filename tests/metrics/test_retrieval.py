"""Ranks and recall against sorting and against chance by simulation."""

import numpy as np
import pytest

from glint.metrics.retrieval import match_ranks, random_recall_score, recall_scores


def test_without_ties_the_rank_is_the_place_of_the_first_match():
    rng = np.random.default_rng(0)
    score, match = rng.normal(size=(40, 15)), rng.random((40, 15)) < 0.15
    ranks = match_ranks(score, match)
    for row, (values, right) in enumerate(zip(score, match, strict=True)):
        ordered = right[np.argsort(-values)]
        assert np.isnan(ranks[row]) if not right.any() else ranks[row] == np.flatnonzero(ordered)[0] + 1


def test_equal_scores_have_the_mean_place_of_all_orders():
    rng = np.random.default_rng(1)
    match = np.array([True, False, True, False, False])
    simulated = np.mean([np.flatnonzero(rng.permutation(match))[0] + 1 for _ in range(20000)])
    assert match_ranks(np.zeros((1, 5)), match[None])[0] == pytest.approx(simulated, abs=0.02)


def test_recall_counts_the_queries_that_have_a_match():
    assert recall_scores(np.array([1, 3, np.nan, 7.0]), (1, 5, 10)) == {1: 1 / 3, 5: 2 / 3, 10: 1.0}
    assert np.isnan(recall_scores(np.array([np.nan]), (1,))[1])


def test_chance_equals_a_random_order():
    rng = np.random.default_rng(2)
    match = np.arange(12) < 3
    simulated = np.mean([rng.permutation(match)[:4].any() for _ in range(20000)])
    assert random_recall_score(12, 3, 4) == pytest.approx(simulated, abs=0.015)
    assert random_recall_score(5, 2, 4) == 1.0 and random_recall_score(5, 0, 2) == 0.0


def test_scores_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        match_ranks(np.array([[np.nan, 1.0]]), np.array([[True, False]]))
