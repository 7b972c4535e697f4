"""Pointing, by hand."""

import numpy as np
import pytest

from glint.metrics.grounding import pointing_score, random_pointing_score


def test_the_highest_voxel_decides_wherever_it_lies():
    rng = np.random.default_rng(0)
    for _ in range(50):
        heat, mask = rng.normal(size=(4, 5, 6)), rng.random((4, 5, 6)) < 0.3
        mask[0, 0, 0] = True
        place = np.unravel_index(np.argmax(heat), heat.shape)
        assert pointing_score(heat, mask) == float(mask[place])


def test_equal_maxima_count_by_their_share_inside():
    assert pointing_score(np.array([1.0, 1.0, 0.0, 1.0]), np.array([True, False, True, False])) == pytest.approx(1 / 3)


def test_a_constant_map_scores_the_mask_share_which_is_chance():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 2, :3] = True
    assert pointing_score(np.zeros(mask.shape), mask) == pytest.approx(3 / 60)
    assert random_pointing_score(mask, np.ones_like(mask)) == pytest.approx(3 / 60)


def test_one_voxel_is_enough():
    assert pointing_score(np.array([3.0]), np.array([True])) == 1.0


def test_an_empty_mask_has_no_score():
    assert np.isnan(pointing_score(np.ones(4), np.zeros(4, bool)))
    assert np.isnan(random_pointing_score(np.zeros(4, bool), np.ones(4, bool)))
    assert np.isnan(random_pointing_score(np.ones(4, bool), np.zeros(4, bool)))


def test_random_points_agree_with_the_chance_level():
    rng = np.random.default_rng(1)
    body, mask = rng.random(4000) < 0.6, rng.random(4000) < 0.1
    hits = mask[rng.choice(np.flatnonzero(body), 20000)].mean()
    assert random_pointing_score(mask, body) == pytest.approx(hits, abs=0.01)


def test_maps_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="shape"):
        pointing_score(np.ones((2, 3)), np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="NaN"):
        pointing_score(np.array([1.0, np.nan]), np.array([True, True]))
