"""Masks hide whole neighbourhoods and always the same number of patches."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from glint.teachers.masking import block_mask, loss_weights, visible_count

GRID = (7, 7, 9)


def draw(seed, **changes):
    settings = {"masked_fraction": 0.8, "block_fraction": (0.2, 0.6), **changes}
    return block_mask(np.random.default_rng(seed), GRID, **settings)


@pytest.mark.parametrize("masked_fraction", [0.75, 0.8, 0.9, 0.999])
def test_every_mask_keeps_the_same_number_of_different_patches(masked_fraction):
    for seed in range(30):
        visible = draw(seed, masked_fraction=masked_fraction)
        assert len(visible) == visible_count(GRID, masked_fraction) >= 1
        assert np.all(np.diff(visible) > 0)
        assert visible[0] >= 0
        assert visible[-1] < 441


def test_one_seed_gives_one_mask_and_another_seed_another():
    assert np.array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


def test_hidden_patches_lie_in_blocks_not_scattered():
    def hidden_neighbours(visible):
        hidden = np.ones(GRID, bool)
        hidden.ravel()[visible] = False
        return (hidden[1:] == hidden[:-1]).mean()

    rng = np.random.default_rng(0)
    scattered = np.mean([hidden_neighbours(rng.permutation(441)[:88]) for _ in range(50)])
    blocks = np.mean([hidden_neighbours(draw(seed)) for seed in range(50)])
    assert blocks > scattered + 0.1


def test_every_place_is_hidden_and_shown_in_turn():
    shown = np.zeros(441)
    for seed in range(400):
        shown[draw(seed)] += 1
    assert shown.mean() == pytest.approx(400 * 0.2, rel=0.01)
    assert shown.min() > 40
    assert shown.max() < 140


def test_weights_are_one_on_hidden_patches_and_fall_with_the_distance_to_them():
    visible = draw(5)
    weights = loss_weights(GRID, visible, visible_weight=0.5)
    places = np.stack(np.unravel_index(np.arange(441), GRID), axis=1)
    hidden = np.setdiff1d(np.arange(441), visible)
    nearest = cdist(places[visible], places[hidden]).min(axis=1)
    assert np.all(weights[hidden] == 1)
    assert weights[visible] == pytest.approx(0.5 / np.sqrt(nearest))
