"""Left is left: a model that reads the side moves its map, one that doesn't stays."""

import numpy as np
import pytest
import torch
from evaluation_cohort import FINDINGS, GRID, WINDOWS, Aligned, BrightnessModel, write_cohort

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.cohort import read_cohort
from glint.evaluation.sides import right_mm, side_questions, side_values
from glint.evaluation.zero_shot import ask, encoded_batches


class SidedModel(BrightnessModel):
    """Adds evidence on the side that the sentence names; `mirrored` takes right for left."""

    def __init__(self, *, mirrored=False, deaf=False):
        super().__init__()
        self.mirrored, self.deaf = mirrored, deaf

    def score(self, tokens, queries, patch_weight_BP):
        plain = super().score(tokens, queries, patch_weight_BP)
        # The cohort's affine is diagonal and positive: x grows towards the patient's right.
        right_P = (torch.arange(36) % GRID[2] >= GRID[2] / 2).float()
        logits = []
        for sentence, logits_BP in zip(queries, plain.gate_logits_TBP, strict=True):
            named = 1.0 if "right" in sentence else -1.0
            named *= 0 if self.deaf else -1 if self.mirrored else 1
            logits.append(logits_BP + 20 * named * (right_P - 0.5))
        logits_TBP = torch.stack(logits)
        held = torch.where(patch_weight_BP > 0, logits_TBP, -torch.inf).max(-1).values
        return Aligned(held, logits_TBP, plain.gate_mass_TB, torch.tensor(0.0))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    inputs = write_cohort(tmp_path_factory.mktemp("sides"), studies=12)
    return read_cohort(
        resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=inputs.features
    ).studies["train"]


def sided(model, studies):
    valid = np.zeros((len(studies), *GRID), bool)
    valid[:, :2] = True
    valid = valid.reshape(len(studies), -1)
    questions = side_questions(list(FINDINGS), EvaluateConfig().prompts)
    batches = encoded_batches(model, studies, WINDOWS, batch_size=5, description="test")
    replies = ask(model, batches, questions, grid=GRID, weight_BP=valid.astype(np.float32), batch_size=5)
    return side_values(studies, replies, GRID, valid, num_findings=2, body_above=-2000.0)


def test_the_sentences_name_left_first_then_right():
    texts = [question.sentences for question in side_questions(["ground_glass"], EvaluateConfig().prompts)]
    assert texts == [("There is left ground glass.",), ("There is right ground glass.",)]


def test_a_model_that_reads_the_side_moves_and_ranks(studies):
    values = sided(SidedModel(), studies)
    assert np.nanmean(values["side_moves"]) == 1.0
    assert np.nanmean(values["side_score"]) == 1.0
    positives = np.array([[finding in study.findings for study in studies] for finding in FINDINGS])
    assert (np.isnan(values["side_moves"]) == ~positives).all()  # one patch lies on one side


def test_one_that_mixes_up_the_sides_is_caught_and_a_deaf_one_stands_still(studies):
    mirrored = sided(SidedModel(mirrored=True), studies)
    assert np.nanmean(mirrored["side_moves"]) == 0.0 and np.nanmean(mirrored["side_score"]) == 0.0
    assert np.nanmean(mirrored["side_shift"]) < -0.1
    deaf = sided(SidedModel(deaf=True), studies)
    assert np.nanmean(deaf["side_moves"]) == 0.0 and np.nanmean(deaf["side_score"]) == 0.5


def test_world_x_follows_the_affine_whatever_the_order_of_the_voxels():
    affine = np.array([[-0.0, 0.0, -2.0, 50.0], [3.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    right = np.broadcast_to(right_mm(affine, (4, 6, 5), (2, 3, 1)), (2, 2, 5))
    for block in range(2):
        z_centre = block * 2 + 0.5
        assert right[block, 0, 0] == pytest.approx((affine @ [0, 1, z_centre, 1])[0])
