"""Prompts are data, ensembles are means, padding has no say."""

import numpy as np
import pytest
import torch
from evaluation_cohort import GRID, VALID_BOX, WINDOWS, Aligned, BrightnessModel, write_cohort

from glint.core.config.evaluate import EvaluateConfig, PromptConfig
from glint.evaluation.cohort import read_cohort
from glint.evaluation.zero_shot import ask_model, make_prompts


def test_prompts_fill_every_template_with_the_findings_wording():
    config = PromptConfig(positive=("There is {finding}.", "{finding} is seen."), wording={"mass": "pulmonary mass"})
    prompts = make_prompts(["mass", "ground_glass_opacity"], config)
    assert prompts.positive_FT == (
        ("There is pulmonary mass.", "pulmonary mass is seen."),
        ("There is ground glass opacity.", "ground glass opacity is seen."),
    )
    assert prompts.negative_FT == (("There is no pulmonary mass.",), ("There is no ground glass opacity.",))


def test_the_default_prompts_are_those_of_training():
    from glint.core.prompts import finding_prompt

    prompts = make_prompts(["hiatal_hernia"], PromptConfig())
    assert prompts.positive_FT[0] == (finding_prompt("hiatal_hernia"),)
    assert prompts.negative_FT[0] == (finding_prompt("hiatal_hernia", absent=True),)


@pytest.mark.parametrize("template", ["There is a mass.", "{finding} in {place}", "{}", "{finding"])
def test_a_template_without_the_finding_is_refused(template):
    with pytest.raises(ValueError, match="template"):
        PromptConfig(positive=(template,))


class Counting(BrightnessModel):
    """Score and map say which sentence was asked about which volume."""

    bias = 0.0

    def score(self, tokens, queries, patch_weight_BP):
        number = torch.tensor([float(len(sentence)) for sentence in queries])[:, None]
        brightness = tokens.mean(dim=1)[None]
        logits = (number + brightness)[..., None] * torch.arange(1.0, 37.0)
        return Aligned(number + brightness, logits, number * brightness, torch.tensor(self.bias))


def studies_of(tmp_path):
    inputs = write_cohort(tmp_path, studies=8)
    cohort = read_cohort(resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=inputs.features)
    return cohort.studies["train"]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_ensemble_is_the_mean_of_its_templates_whatever_the_batch(tmp_path, batch_size):
    studies = studies_of(tmp_path)
    config = PromptConfig(
        positive=("{finding}", "{finding} ab"), negative=("no {finding}", "no {finding}!", "no {finding}?!")
    )
    prompts = make_prompts(["mass", "emphysema"], config)
    weight = np.ones((len(studies), 36), np.float32)
    answers = ask_model(
        Counting(), studies, prompts, grid=GRID, windows=WINDOWS, weight_BP=weight, batch_size=batch_size
    )
    brightness = np.array([np.clip((study.volume()[0] + 1000) / 2000, 0, 1).mean() for study in studies])
    length = np.array([4, 9])[:, None]
    np.testing.assert_allclose(answers.score_FB, length + 1.5 + brightness, rtol=1e-5)
    np.testing.assert_allclose(answers.contrast_FB, np.broadcast_to(1.5 - 4, answers.score_FB.shape), rtol=1e-4)
    np.testing.assert_allclose(answers.mass_FB, (length + 1.5) * brightness, rtol=1e-5)
    np.testing.assert_allclose(answers.logits_FBP[..., 35], 36 * (length + 1.5 + brightness), rtol=1e-5)


def test_the_likelihood_map_leaves_out_the_bias_and_the_posterior_map_keeps_it(tmp_path):
    studies = studies_of(tmp_path)
    model = Counting()
    model.bias = -6.5
    prompts = make_prompts(["mass"], PromptConfig(positive=("{finding}",), negative=("no {finding}",)))
    asked = {"grid": GRID, "windows": WINDOWS, "batch_size": 4, "weight_BP": np.ones((len(studies), 36), np.float32)}
    likelihood = ask_model(model, studies, prompts, mask_rule="likelihood", **asked)
    posterior = ask_model(model, studies, prompts, mask_rule="posterior", **asked)
    np.testing.assert_allclose(likelihood.logits_FBP - posterior.logits_FBP, 6.5, rtol=1e-5)
    np.testing.assert_array_equal(likelihood.score_FB, posterior.score_FB)
    np.testing.assert_array_equal(likelihood.mass_FB, posterior.mass_FB)


def test_what_the_model_says_of_padding_does_not_reach_the_scan(tmp_path):
    studies = studies_of(tmp_path)
    valid = np.zeros((len(studies), *GRID), np.float32)
    valid[:, : VALID_BOX[1] // 8] = 1
    prompts = make_prompts(["emphysema"], PromptConfig())
    asked = {"grid": GRID, "windows": WINDOWS, "weight_BP": valid.reshape(len(studies), -1), "batch_size": 4}
    answers = ask_model(BrightnessModel(), studies, prompts, **asked)
    maps = answers.logits_FBP.reshape(1, len(studies), *GRID)
    np.testing.assert_array_equal(maps[:, :, 2], maps[:, :, 1])


def test_the_configuration_is_strict():
    with pytest.raises(ValueError, match="arms"):
        EvaluateConfig(arms=())
