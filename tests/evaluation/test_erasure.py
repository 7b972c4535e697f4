"""Erasing what the map calls must hurt a model that looks there, and only then."""

import numpy as np
import pytest
from evaluation_cohort import FINDINGS, GRID, SHAPE, VALID_BOX, load_fake, write_cohort

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.cohort import positive_labels, read_cohort
from glint.evaluation.erasure import choose_patches, erase_patches, erasure_values
from glint.evaluation.zero_shot import ask_model, make_prompts

CONFIG = EvaluateConfig(body_above=-2000.0, erased_cases=4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("erasure"), studies=12)


def values_of(inputs, folder):
    studies = read_cohort(
        resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=inputs.features
    ).studies["train"]
    arm, findings = load_fake(folder), list(FINDINGS)
    valid = np.zeros((len(studies), *GRID), bool)
    valid[:, : VALID_BOX[1] // 8] = True
    valid = valid.reshape(len(studies), -1)
    prompts = make_prompts(findings, CONFIG.prompts)
    asked = {"grid": GRID, "windows": arm.windows, "weight_BP": valid.astype(np.float32), "batch_size": 4}
    answers = ask_model(arm.model, studies, prompts, **asked)
    return erasure_values(arm, studies, answers, prompts, valid, positive_labels(studies, findings), CONFIG)


def test_a_model_that_looks_at_the_lesion_loses_it_with_its_patches(inputs):
    values = values_of(inputs, inputs.checkpoints[0])
    assert (np.isfinite(values["erasure_excess"]).sum(axis=1) == 4).all()
    assert np.nanmin(values["erasure_drop"]) > 1
    assert np.nanmean(values["erasure_faithful"]) == 1.0


def test_a_blind_model_loses_nothing(inputs):
    values = values_of(inputs, inputs.checkpoints[1])
    assert np.nanmax(np.abs(values["erasure_excess"])) == 0.0
    assert np.nanmax(values["erasure_faithful"]) == 0.0


def test_an_erased_patch_takes_the_mean_of_its_nearest_neighbour_and_others_stay():
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
    erased = np.zeros(GRID, bool)
    erased[1, 1, 1] = True
    filled = erase_patches(volume, erased.ravel(), GRID)
    box = (slice(8, 16), slice(8, 16), slice(8, 16))
    assert np.unique(filled[box]).size == 1
    neighbours = {
        round(float(volume[z * 8 : z * 8 + 8, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8].mean()))
        for z, y, x in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2))
    }
    assert int(filled[box][0, 0, 0]) in neighbours
    filled[box] = volume[box]
    np.testing.assert_array_equal(filled, volume)
    with pytest.raises(ValueError, match="every patch"):
        erase_patches(volume, np.ones(36, bool), GRID)


def test_as_many_others_are_drawn_from_the_body_and_never_the_called_ones():
    rng = np.random.default_rng(1)
    body = np.ones(36, bool)
    body[:6] = False
    logits = np.full(36, -3.0)
    logits[[2, 7, 9, 20]] = 1.0
    called, by_lot = choose_patches(logits, body, offset=0.0, rng=rng)
    assert np.flatnonzero(called).tolist() == [7, 9, 20]
    assert by_lot.sum() == 3 and not (by_lot & (called | ~body)).any()
    one, _ = choose_patches(np.where(np.arange(36) == 30, -1.0, -3.0), body, offset=0.0, rng=rng)
    assert np.flatnonzero(one).tolist() == [30]  # none is open: the highest
    assert choose_patches(np.ones(36), body, offset=0.0, rng=rng) is None


def test_a_bright_films_patches_keep_their_grey():
    film = np.full((1, 16, 16), 60000, np.uint16)
    film[0, :8] = 50000
    erased = np.zeros((1, 2, 2), bool)
    erased[0, 1, 1] = True
    assert erase_patches(film, erased.ravel(), (1, 2, 2))[0, 12, 12] in (50000, 60000)
