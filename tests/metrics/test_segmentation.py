"""Overlap against scipy, scikit-learn and masks made one by one."""

import numpy as np
import pytest
from scipy.spatial.distance import dice as dice_distance
from sklearn.metrics import f1_score

from glint.metrics.segmentation import (
    dice_curve_scores,
    dice_score,
    everything_dice_score,
    false_positive_image_errors,
)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_dice_equals_scipy_and_the_f1_of_voxels(share):
    rng = np.random.default_rng(3)
    predicted, truth = rng.random((6, 7, 8)) < share, rng.random((6, 7, 8)) < 0.2
    assert dice_score(predicted, truth) == pytest.approx(1 - dice_distance(predicted.ravel(), truth.ravel()))
    assert dice_score(predicted, truth) == pytest.approx(f1_score(truth.ravel(), predicted.ravel()))


def test_dice_of_empty_masks():
    empty, one = np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    one[1, 0, 1] = True
    assert (dice_score(empty, empty), dice_score(empty, one), dice_score(one, empty)) == (1.0, 0.0, 0.0)
    assert dice_score(one, one) == 1.0


def test_masks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        dice_score(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="shape"):
        dice_curve_scores(np.zeros((2, 3)), np.zeros((3, 2), bool), lowest=0, step=1, num=3)


@pytest.mark.parametrize("truth_share", [0.0, 0.001, 0.2])
def test_the_curve_equals_one_mask_per_threshold(truth_share):
    rng = np.random.default_rng(4)
    heat, truth = rng.normal(0, 3, (9, 10, 11)).astype(np.float32), rng.random((9, 10, 11)) < truth_share
    heat[0] = -np.inf
    curve = dice_curve_scores(heat, truth, lowest=-2.0, step=0.37, num=25)
    expected = [dice_score(heat > -2.0 + 0.37 * k, truth) for k in range(25)]
    np.testing.assert_allclose(curve, expected, atol=1e-12)


def test_a_value_at_a_threshold_is_not_above_it():
    heat, truth = np.array([0.0, 1.0, 2.0]), np.array([False, True, True])
    np.testing.assert_allclose(dice_curve_scores(heat, truth, lowest=0.0, step=1.0, num=3), [1.0, 2 / 3, 0.0])


def test_chance_equals_the_dice_of_a_full_mask_and_beats_a_random_one_of_the_size_of_the_truth():
    rng = np.random.default_rng(6)
    body, num_truth = 5000, 400
    truth = np.arange(body) < num_truth
    drawn = [dice_score(np.isin(np.arange(body), rng.choice(body, num_truth, False)), truth) for _ in range(50)]
    assert everything_dice_score(num_truth, body) == pytest.approx(dice_score(np.ones(body, bool), truth))
    assert everything_dice_score(num_truth, body) > 1.5 * np.mean(drawn)
    assert everything_dice_score(0, 0) == 1.0


def test_false_positive_images_are_counted_among_negatives_only():
    nonempty, positive = np.array([True, True, False, True]), np.array([True, False, False, False])
    errors = false_positive_image_errors(nonempty, positive, np.array([[1, 1, 1, 1], [5, 0, 2, 2], [1, 0, 0, 0]]))
    np.testing.assert_allclose(errors, [2 / 3, 0.5, np.nan])
