"""Patch logits become voxels as torch would make them."""

import numpy as np
import pytest
import torch

from glint.evaluation.maps import body_mask, extend_over_padding, linear_weights, patch_fractions, upsample_logits


@pytest.mark.parametrize(("grid", "shape"), [((3, 4, 5), (24, 32, 40)), ((1, 2, 3), (8, 6, 7)), ((2, 2, 2), (2, 2, 2))])
def test_upsampling_equals_torch(grid, shape):
    logits = np.random.default_rng(0).normal(size=(2, int(np.prod(grid)))).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits).reshape(2, 1, *grid), size=shape, mode="trilinear", align_corners=False
    )[:, 0]
    np.testing.assert_allclose(upsample_logits(logits, grid, shape), expected.numpy(), atol=1e-5)


def test_a_value_stays_at_its_patch():
    """An asymmetric place, so that a swapped axis cannot pass."""
    logits = np.zeros((1, 2 * 3 * 4), np.float32)
    logits[0, 1 * 12 + 0 * 4 + 2] = 1
    heat = upsample_logits(logits, (2, 3, 4), (16, 24, 32))[0]
    z, y, x = np.unravel_index(int(np.argmax(heat)), heat.shape)
    assert (z // 8, y // 8, x // 8) == (1, 0, 2)


def test_weights_hold_the_outer_values_and_sum_to_one():
    weights = linear_weights(3, 24)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights[0], [1, 0, 0])


def test_padding_repeats_its_nearest_scan_and_leaves_the_scan_alone():
    grid = (3, 2, 4)
    valid = np.zeros(grid, bool)
    valid[1:, :, :3] = True
    logits = np.arange(24, dtype=np.float32)[None, None]
    extended = extend_over_padding(logits, valid.reshape(1, -1), grid)[0, 0].reshape(grid)
    original = logits.reshape(grid)
    np.testing.assert_array_equal(extended[valid], original[valid])
    np.testing.assert_array_equal(extended[0, :, :3], original[1, :, :3])
    np.testing.assert_array_equal(extended[1:, :, 3], original[1:, :, 2])
    np.testing.assert_array_equal(extended[0, :, 3], original[1, :, 2])


def test_the_body_holds_its_lungs_but_not_the_air_around_it():
    volume = np.full((2, 20, 20), -1000, np.int16)
    volume[:, 4:16, 4:16] = 40
    volume[:, 7:12, 7:12] = -850
    expected = np.zeros(volume.shape, bool)
    expected[:, 4:16, 4:16] = True
    np.testing.assert_array_equal(body_mask(volume, -500), expected)


def test_patch_fractions_equal_counting():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 8, (4, 6, 8)).astype(np.uint16)
    fractions = patch_fractions(bits, (2, 3, 2), 3)
    for finding in range(3):
        for patch, (z, y, x) in enumerate(np.ndindex(2, 3, 2)):
            block = bits[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4]
            assert fractions[finding, patch] == pytest.approx(np.mean((block & (1 << finding)) > 0))
