"""Free sentences are asked of their own study and measured against what they describe, sentence by sentence."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
import torch
from evaluation_cohort import (
    AFFINE,
    FINDINGS,
    GRID,
    KEY,
    PATCH,
    SHAPE,
    Aligned,
    BrightnessModel,
    fake_tokens,
    load_fake,
    uid,
    write_cohort,
)

from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.evaluation.arms import LoadedArm
from glint.evaluation.queries import QUERIES_FILE, QUERIES_FOLDER, read_queries, read_query_list
from glint.evaluation.sentences import ALL, BY_FINDING
from glint.evaluation.stage import evaluate_models, with_pictures, write_evaluation
from glint.evaluation.truth import make_truth
from glint.formats.nifti import write_nifti

CONFIG = EvaluateConfig(resamples=50, foreign_checkpoint=True, overlay_cases=2)
LEFT, RIGHT = "a mass in the left half <i>", "one more mass in the right half"
HALVES = {LEFT: (slice(8, 16), slice(8, 16), slice(0, 8)), RIGHT: (slice(0, 8), slice(16, 24), slice(24, 32))}
"""Boxes (z, y, x) of one patch each; the smaller x is called left here."""


HEARD = []


class ListeningModel(BrightnessModel):
    """Sees what is bright, in the half that the sentence names."""

    def encode_text(self, sentences):
        HEARD.extend(sentences)
        return list(sentences)

    def score(self, tokens, queries, patch_weight_BP):
        aligned = super().score(tokens, queries, patch_weight_BP)
        on_left = (torch.arange(GRID[2]) < GRID[2] // 2).repeat(GRID[0] * GRID[1])
        logits = aligned.gate_logits_TBP.clone()
        for row, sentence in enumerate(queries):
            hidden = (
                ~on_left if "left half" in sentence else on_left if "right half" in sentence else on_left & ~on_left
            )
            logits[row, :, hidden] = -8.0
        held = torch.where(patch_weight_BP > 0, logits, -torch.inf)
        return Aligned(held.max(-1).values, logits, aligned.gate_mass_TB, aligned.bias)


def load_listening(folder):
    if folder.name != "glint":
        return load_fake(folder)
    return LoadedArm(model=ListeningModel(), grid=GRID, volume_zyx=SHAPE, windows=((-1000.0, 1000.0),))


def draw(folder, name, bits):
    folder.mkdir(exist_ok=True)
    write_nifti(folder / "plain.nii", bits, AFFINE)
    (folder / f"{name}.nii.gz").write_bytes(gzip.compress((folder / "plain.nii").read_bytes(), mtime=0))
    (folder / "plain.nii").unlink()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Test studies 28, 29 and 30 have both masses; of 28 and 29 both are described, of 30 the right one, as no known finding."""
    root = tmp_path_factory.mktemp("sentences")
    inputs = write_cohort(root)
    truth, names = root / "restricted" / "truth", Pseudonyms(KEY)
    rows = ["id,query,finding,sentence"]
    for number, asked in {28: (LEFT, RIGHT), 29: (LEFT, RIGHT), 30: (RIGHT,)}.items():
        volume_path = inputs.resampled[0].parent / "volumes" / f"{names.study_id(uid(number))}.nii"
        volume = np.zeros(SHAPE, np.int16)
        volume[16:] = -1024
        drawn, described = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16)
        for box in HALVES.values():
            volume[box], drawn[box] = FINDINGS["mass"], 1
        for place, sentence in enumerate(asked):
            described[HALVES[sentence]] |= 1 << place
            rows.append(f"{uid(number)},{place},{'mass' if len(asked) == 2 else ''},{sentence}")
        write_nifti(volume_path, volume, AFFINE)
        draw(truth, uid(number), drawn)
        draw(truth / QUERIES_FOLDER, uid(number), described)
    (truth / QUERIES_FILE).write_text("\n".join(rows))
    make_truth(truth_dir=truth, pseudonyms=names, resampled=inputs.resampled, split=inputs.split, out_path=inputs.truth)
    return inputs


@pytest.fixture(scope="module")
def evaluated(inputs):
    return evaluate_models(inputs, CONFIG, load=load_listening, read_tokens=fake_tokens(inputs))


def value(evaluation, arm, metric, finding=ALL):
    found = evaluation.sentences
    summary = found.overall if finding == ALL else found.by_finding
    return summary.find(arm, metric, finding).value


def test_the_truth_lists_every_sentence_under_its_pseudonym_with_its_voxels(inputs):
    rows = read_queries(inputs.truth).to_dicts()
    expected = {Pseudonyms(KEY).study_id(uid(number)) for number in (28, 29, 30)}
    assert len(rows) == 5 and {row["study_id"] for row in rows} == expected
    assert {row["voxels"] for row in rows} == {PATCH**3}
    assert uid(28) not in json.dumps(rows)


def test_the_model_is_asked_the_sentence_as_it_is_written(evaluated):
    assert {LEFT, RIGHT} <= set(HEARD)


def test_a_sentence_is_measured_against_what_it_describes_alone(evaluated):
    evaluation, _ = evaluated
    assert value(evaluation, "glint", "pointing") == 1
    # Asked for a mass at large, the map has two equal summits, one of them in each sentence's mask.
    assert value(evaluation, f"glint{BY_FINDING}", "pointing") == pytest.approx(0.5)
    assert value(evaluation, "glint", "dice_fixed") > 1.3 * value(evaluation, f"glint{BY_FINDING}", "dice_fixed")
    assert value(evaluation, "global_pooling", "dice_fixed") == 0
    assert value(evaluation, "chance", "pointing") == pytest.approx(PATCH**3 / (16 * 24 * 32), rel=0.02)
    part, body = PATCH**3, 16 * 24 * 32  # the whole body called the finding
    assert value(evaluation, "chance", "mean_iou") == pytest.approx(part / body, rel=0.02)
    assert value(evaluation, "chance", "dice_fixed") == pytest.approx(2 * part / (part + body), rel=0.02)
    assert value(evaluation, "chance", "hit") == 0


def test_dice_and_instances_of_a_sentence_equal_a_count_by_hand(evaluated):
    evaluation, _ = evaluated
    found = evaluation.sentences
    arm = found.cases.arms["glint"]
    for column, case in enumerate(found.studies):
        coarse = torch.from_numpy(arm.answers.logits_FBP[0, column].reshape(1, 1, *GRID))
        fine = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=False)[0, 0, :16] > 0
        truth = torch.zeros(SHAPE, dtype=torch.bool)
        truth[HALVES[case.sentence]] = True
        dice = 2 * (fine & truth[:16]).sum() / (fine.sum() + truth.sum())
        assert arm.dice_FB[0, column] == pytest.approx(float(dice))
        assert arm.instances_FB3[0, column].tolist() == [int(dice >= 0.2), 1, 1]


def test_sentences_weigh_alike_and_one_without_a_known_finding_counts_in_all_but_not_by_finding(evaluated):
    evaluation, _ = evaluated
    found = evaluation.sentences
    assert found.cases.positive_FB.shape == (1, 5) and found.findings == ("mass",)
    dice = found.cases.arms["glint"].dice_FB[0]
    assert value(evaluation, "glint", "dice_fixed") == pytest.approx(dice.mean())
    known = np.array([case.finding == "mass" for case in found.studies])
    assert known.sum() == 4 and value(evaluation, "glint", "dice_fixed", "mass") == pytest.approx(dice[known].mean())
    assert np.isnan(found.cases.arms[f"glint{BY_FINDING}"].dice_FB[0]).tolist() == (~known).tolist()


def test_the_report_and_its_numbers_hold_the_sentences(inputs, evaluated, tmp_path):
    write_evaluation(with_pictures(*evaluated, inputs.checkpoints), tmp_path)
    tree = json.loads((tmp_path / "metrics.json").read_text())["sentences"]
    assert (tree["sentences"], tree["studies"]) == (5, 3)
    glint = tree["arms"]["glint"]["dice_fixed"]
    assert glint["all_low"] <= glint["all"] <= glint["all_high"] and "mass" in glint
    assert tree["protocols"]["ReXGroundingCT"]["Dice"]["glint"] == glint["all"]
    assert tree["protocols"]["RadZero"]["pointing"]["glint"] == 1
    page = (tmp_path / "report.html").read_text()
    assert 'id="sentences"' in page and "left half &lt;i&gt;" in page and "left half <i>" not in page
    assert "GLINT, asked by finding" in page and 'alt="Overlays of sentences"' in page
    table = pl.read_parquet(tmp_path / "tables" / "sentences.parquet")
    assert table.filter(pl.col("arm") == "glint")["sentence"].to_list().count(RIGHT) == 3


def test_without_a_list_of_sentences_nothing_is_asked(tmp_path):
    inputs = write_cohort(tmp_path)
    evaluation, _ = evaluate_models(inputs, CONFIG, load=load_fake, read_tokens=fake_tokens(inputs))
    assert evaluation.sentences is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,query,sentence\na,0,x", "no column 'finding'"),
        ("id,query,finding,sentence\na,1,mass,x", "numbered 0, 1, 2"),
        ("id,query,finding,sentence\na,0,mass,x\na,0,mass,y", "numbered 0, 1, 2"),
        ("id,query,finding,sentence\na,0,mass, ", "column 'sentence' is empty"),
        ("id,query,finding,sentence\n" + "\n".join(f"a,{k},m,x" for k in range(33)), "33 queries of one id"),
    ],
)
def test_a_wrong_list_of_sentences_is_told_in_one_line(tmp_path, text, told):
    (tmp_path / QUERIES_FILE).write_text(text)
    with pytest.raises(InputError, match=told):
        read_query_list(tmp_path, None)
