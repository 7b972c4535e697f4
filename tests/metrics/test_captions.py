"""Measures of generated text against counts by hand and published definitions."""

import math

import numpy as np
import pytest

from glint.metrics.captions import (
    bleu_score,
    cider_scores,
    finding_f1_scores,
    meteor_scores,
    rouge_l_scores,
    words,
)


def test_words_keep_numbers_and_drop_punctuation():
    assert words("A 2.8 x 2.4 cm Nodule, left-sided.") == ["a", "2.8", "x", "2.4", "cm", "nodule", "left", "sided"]


def test_bleu_of_one_and_two_words_by_hand():
    # 5 words against 6: 4 of 5 match, 2 of 4 pairs match, brevity exp(1 - 6/5).
    generated, reference = ["there is no large nodule"], ["there is a left nodule no"]
    brevity = math.exp(1 - 6 / 5)
    assert bleu_score(generated, reference, order=1) == pytest.approx(brevity * 4 / 5)
    assert bleu_score(generated, reference, order=2) == pytest.approx(brevity * math.sqrt(4 / 5 * 1 / 4))


def test_rouge_l_by_hand():
    # Longest common subsequence "there is nodule": 3 of 4 and 3 of 5 words.
    score = rouge_l_scores(["there is one nodule"], ["there is a large nodule"])
    assert score[0] == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))


def test_meteor_by_hand_with_a_stem_and_without_synonyms():
    # "nodules" meets "nodule" by its stem; 3 of 3 and 3 of 4 words match in 2 chunks.
    precision, recall = 1.0, 0.75
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    score = meteor_scores(["two nodules left", ""], ["two small nodule left", "x"])
    assert score[0] == pytest.approx(mean * (1 - 0.5 * (2 / 3) ** 3))
    assert score[1] == 0


def test_cider_by_hand():
    # Three references; "no" is in two of them, "mass" and "nodule" in one each.
    reference = ["no mass", "no nodule", "clear"]
    common, rare = math.log(3 / 2), math.log(3)
    single = common * common / (common**2 + rare**2)  # "no mass" against "no nodule", single words; no pair is shared
    assert cider_scores(["no mass", "no mass", "clear"], reference) == pytest.approx(
        [10 * 2 / 4, 10 * single / 4, 10 * 1 / 4]
    )


def test_cider_clips_repeated_words_and_punishes_length():
    reference = ["no mass", "clear lungs"]
    idf = math.log(2)
    clipped = 2 * idf * idf / (math.sqrt(9 + 1) * idf * math.sqrt(2) * idf)
    pairs = idf * idf / (math.sqrt(1 + 4) * idf * idf)  # "no mass" once, "mass mass" twice
    expected = 10 * (clipped + pairs) / 4 * math.exp(-4 / 72)
    assert cider_scores(["no mass mass mass", "clear lungs"], reference)[0] == pytest.approx(expected)


def test_finding_f1_by_hand_and_by_resample():
    written = np.array([[1, 0], [1, 1], [0, 0]], bool)
    stated = np.array([[1, 1], [0, 1], [0, 0]], bool)
    micro, macro = finding_f1_scores(stated, written, [[1, 1, 1], [1, 0, 1], [0, 0, 1]])
    assert micro[:2] == pytest.approx([2 * 2 / 6, 2 / 3])
    assert macro[:2] == pytest.approx([(2 / 3 + 2 / 3) / 2, 1.0])
    assert np.isnan(micro[2]) and np.isnan(macro[2])
