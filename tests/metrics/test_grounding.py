"""Pointing, contrast and boxes: by hand, by scikit-learn, by filled boxes."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from glint.metrics.grounding import (
    box_iou_scores,
    box_pointing_scores,
    contrast_to_noise_score,
    largest_boxes,
    mean_iou_score,
    pointing_score,
    random_pointing_score,
)


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


BOXES = np.array([[[2, 4], [3, 6]], [[5, 6], [0, 2]]])


def test_a_point_belongs_to_the_boxes_that_hold_it():
    heat = np.zeros((8, 8))
    heat[3, 5] = 1.0
    assert box_pointing_scores(heat, BOXES).tolist() == [1.0, 0.0]
    heat[3, 5], heat[4, 5] = 0.0, 1.0  # stop is outside
    assert box_pointing_scores(heat, BOXES).tolist() == [0.0, 0.0]


def test_a_tolerance_counts_points_near_a_box_by_their_distance_to_it():
    rng = np.random.default_rng(3)
    for _ in range(200):
        heat = rng.random((9, 11))
        start = rng.integers(0, 6, 2)
        box = np.stack([start, start + rng.integers(1, 4, 2)], axis=1)
        tolerance = rng.uniform(0, 5)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        inside = [(r, c) for r in range(*box[0]) for c in range(*box[1])]
        near = min(np.hypot(row - r, column - c) for r, c in inside) <= tolerance
        assert box_pointing_scores(heat, box[None], tolerance=tolerance)[0] == near


def test_contrast_to_noise_by_its_formula_and_its_sign():
    heat, mask = np.array([3.0, 5.0, 0.0, 1.0, 1.0]), np.array([True, True, False, False, False])
    expected = (4 - 2 / 3) / np.sqrt(1 + 2 / 9)
    assert contrast_to_noise_score(heat, mask) == pytest.approx(expected)
    assert contrast_to_noise_score(-heat, mask, absolute=False) == pytest.approx(-expected)
    assert contrast_to_noise_score(np.ones(5), mask) == 0.0
    assert np.isnan(contrast_to_noise_score(heat, np.ones(5, bool)))


def test_mean_iou_is_the_mean_of_jaccard_scores():
    rng = np.random.default_rng(4)
    heat, mask = rng.random(300), rng.random(300) < 0.3
    oracle = np.mean([jaccard_score(mask, heat > cut) for cut in (0.1, 0.2, 0.3, 0.4, 0.5)])
    assert mean_iou_score(heat, mask) == pytest.approx(oracle)


def test_boxes_surround_the_largest_parts():
    mask = np.zeros((6, 9), bool)
    mask[1:3, 1:4] = mask[4, 7] = True
    mask[5, 8] = True  # touches by a corner: one part with [4, 7]
    assert largest_boxes(mask, 2).tolist() == [[[1, 3], [1, 4]], [[4, 6], [7, 9]]]
    assert largest_boxes(mask, 1).shape == (1, 2, 2)
    assert largest_boxes(np.zeros((3, 3), bool), 2).shape == (0, 2, 2)


def test_box_overlap_equals_that_of_the_filled_boxes():
    rng = np.random.default_rng(5)
    starts = rng.integers(0, 6, (8, 3))
    boxes = np.stack([starts, starts + rng.integers(1, 5, (8, 3))], axis=2)
    filled = np.zeros((8, 11, 11, 11), bool)
    for one, (z, y, x) in zip(filled, boxes, strict=True):
        one[z[0] : z[1], y[0] : y[1], x[0] : x[1]] = True
    oracle = [[(a & b).sum() / (a | b).sum() for b in filled] for a in filled]
    assert np.allclose(box_iou_scores(boxes, boxes), oracle)
