"""Overlap against scipy, scikit-learn and masks made one by one."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import dice as dice_distance
from sklearn.metrics import f1_score

from glint.metrics.segmentation import (
    dice_curve_scores,
    dice_score,
    everything_dice_score,
    false_positive_image_errors,
    hit_score,
    instance_counts,
    iou_score,
    recall_score,
    surface_errors,
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


def brute_surface(mask):
    """Voxels of a mask with a face neighbour outside, the outside of the array being empty."""
    padded = np.pad(mask, 1)
    surface = np.zeros_like(padded)
    for axis in range(padded.ndim):
        for step in (1, -1):
            surface |= padded & ~np.roll(padded, step, axis)
    return np.argwhere(surface) - 1


@pytest.mark.parametrize("shape", [(7, 9, 8), (1, 12, 13)])
def test_surface_distances_equal_those_of_all_pairs_of_surface_voxels(shape):
    rng = np.random.default_rng(6)
    spacing = np.array([2.5, 0.7, 1.3])
    for _ in range(5):
        first, second = (binary_dilation(rng.random(shape) < 0.02, iterations=2) for _ in range(2))
        if not first.any() or not second.any():
            continue
        kept = [axis for axis in range(3) if shape[axis] > 1]
        points = [brute_surface(mask.squeeze()) * spacing[kept] for mask in (first, second)]
        distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
        forth, back = distance.min(axis=1), distance.min(axis=0)
        found = surface_errors(first, second, spacing, tolerance=1.35)
        assert found["mean_surface"] == pytest.approx(np.concatenate([forth, back]).mean(), rel=1e-4)
        assert found["surface_dice"] == pytest.approx(np.mean(np.concatenate([forth, back]) <= 1.35))
        assert found["hausdorff95"] == pytest.approx(max(np.quantile(forth, 0.95), np.quantile(back, 0.95)), rel=1e-4)


def test_equal_masks_have_no_surface_error_and_empty_ones_none_at_all():
    mask = np.zeros((5, 6, 7), bool)
    mask[0:2, 2:5, 6] = True
    found = surface_errors(mask, mask, (3, 1, 1), tolerance=0.1)
    assert found == {"hausdorff95": 0.0, "mean_surface": 0.0, "surface_dice": 1.0}
    shifted = np.roll(mask, 1, axis=0)
    assert surface_errors(mask, shifted, (3, 1, 1), tolerance=10)["surface_dice"] == 1.0
    assert surface_errors(mask, shifted, (3, 1, 1), tolerance=2)["surface_dice"] < 1.0
    assert all(np.isnan(value) for value in surface_errors(mask, np.zeros_like(mask), (1, 1, 1), tolerance=1).values())


def test_iou_recall_and_hits_follow_from_the_counts():
    truth, predicted = np.zeros(20, bool), np.zeros(20, bool)
    truth[:4], predicted[3:10] = True, True
    assert iou_score(predicted, truth) == pytest.approx(1 / 10)
    assert recall_score(predicted, truth) == 0.25
    assert dice_score(predicted, truth) == pytest.approx(2 / 11)
    assert hit_score(predicted, truth) == 1.0 and hit_score(predicted, truth, least_dice=0.2) == 0.0
    assert iou_score(~truth & truth, ~truth & truth) == 1.0
    assert np.isnan(hit_score(predicted, ~truth & truth)) and np.isnan(recall_score(predicted, ~truth & truth))


def test_instances_are_matched_one_to_one():
    truth, predicted = np.zeros((3, 30), bool), np.zeros((3, 30), bool)
    truth[1, 0:5] = truth[1, 8:13] = truth[1, 20:24] = True
    predicted[1, 0:13] = True  # one blob over two lesions matches one of them only
    predicted[1, 26:28] = True
    assert instance_counts(predicted, truth) == (1, 2, 3)
    assert instance_counts(truth, truth) == (3, 3, 3)
    assert instance_counts(np.zeros_like(truth), truth) == (0, 0, 3)
    assert instance_counts(truth, np.zeros_like(truth)) == (0, 3, 0)


def test_surface_distances_equal_monais():
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(8)
    first, second = (binary_dilation(rng.random((9, 10, 11)) < 0.02, iterations=2) for _ in range(2))
    tensors = [torch.from_numpy(np.pad(mask, 1))[None, None].float() for mask in (first, second)]
    common = {"include_background": True, "spacing": [3.0, 1.0, 0.8]}
    found = surface_errors(first, second, (3.0, 1.0, 0.8), tolerance=1.1)
    oracle = monai.compute_hausdorff_distance(*tensors, percentile=95, **common)
    assert found["hausdorff95"] == pytest.approx(float(oracle), rel=1e-4)
    oracle = monai.compute_average_surface_distance(*tensors, symmetric=True, **common)
    assert found["mean_surface"] == pytest.approx(float(oracle), rel=1e-4)
    assert found["surface_dice"] == pytest.approx(
        float(monai.compute_surface_dice(*tensors, [1.1], **common)), rel=1e-4
    )
