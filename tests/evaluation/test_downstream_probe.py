"""Probes: who may be seen, that findings share nothing, that pooled and attended tokens find what is there to find."""

import csv
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from evaluation_cohort import GRID, SHAPE, WINDOWS, fake_tokens, write_cohort
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from glint.cli.__main__ import main
from glint.core.config.downstream import DownstreamConfig, ProbeTaskConfig
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.evaluation.arms import LoadedArm
from glint.evaluation.downstream import run_probe as module
from glint.evaluation.downstream.probe_task import (
    Labelled,
    Setting,
    few_shot_rows,
    fraction_of_patients,
    summarise_probes,
    used_rows,
)
from glint.evaluation.downstream.probes import AttentiveProbe, attentive_scores, linear_scores, pooled_tokens
from glint.formats.manifest import manifest_frame, write_manifest

TASK = ProbeTaskConfig(seeds=(0, 1), steps=60, shots=(1, 2), fractions=(0.1, 1.0), learning_rate=0.03)


def test_shares_take_whole_patients_and_larger_ones_hold_smaller_ones():
    patients = [f"p{k // 3}" for k in range(60)]
    shares = {f: set(fraction_of_patients(patients, f, seed=4).tolist()) for f in (0.01, 0.1, 0.33, 1.0)}
    assert [len(one) for one in shares.values()] == [3, 6, 21, 60]
    assert shares[0.01] < shares[0.1] < shares[0.33] < shares[1.0]
    for rows in shares.values():
        assert all({3 * (row // 3) + k for k in range(3)} <= rows for row in rows)
    assert shares[0.1] != set(fraction_of_patients(patients, 0.1, seed=5).tolist())


def test_shots_are_of_both_classes_of_different_patients_and_nested():
    positive = np.arange(40) % 4 == 0
    patients = [f"p{k // 2}" for k in range(40)]
    few, more = (few_shot_rows(positive, patients, k, seed=1, finding="mass") for k in (2, 5))
    assert positive[few].sum() == 2 and (~positive[few]).sum() == 2
    assert positive[more].sum() == 5 and (~positive[more]).sum() == 5
    assert (few <= more).all()
    assert len({patients[row] for row in np.flatnonzero(more)}) == 10


def test_a_class_with_too_few_studies_gives_all_it_has():
    used = few_shot_rows(np.array([True] + [False] * 5), list("abcdef"), 4, seed=0, finding="mass")
    assert used[0] and used[1:].sum() == 4


def test_linear_scores_rank_as_scikit_learn_does_on_the_studies_each_finding_may_see():
    rng = np.random.default_rng(0)
    seen, asked = rng.normal(2, 3, (50, 4)).astype(np.float32), rng.normal(2, 3, (20, 4)).astype(np.float32)
    target = np.stack([seen[:, 0] > 2, seen[:, 1] + rng.normal(size=50) > 3], axis=1)
    used = np.ones((50, 2), bool)
    used[30:, 1] = False
    scores = linear_scores(seen, target, used, asked, ProbeTaskConfig(strength=0.1, iterations=200))
    for finding, rows in enumerate((50, 30)):
        mean, deviation = seen[:rows].mean(axis=0), seen[:rows].std(axis=0)
        reference = LogisticRegression(C=0.1, tol=1e-8).fit((seen[:rows] - mean) / deviation, target[:rows, finding])
        expected = reference.decision_function((asked - mean) / deviation)
        np.testing.assert_allclose(scores[:, finding], expected, atol=2e-3)


def test_a_finding_without_both_classes_scores_nothing():
    seen = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    target = np.array([[True, True]] * 6)
    target[0, 1] = False
    scores = linear_scores(seen, target, np.ones((6, 2), bool), seen, TASK)
    assert (scores[:, 0] == 0).all() and np.ptp(scores[:, 1]) > 0


def test_pooling_never_sees_padding():
    tokens = np.zeros((1, 3, 2), np.float16)
    tokens[0] = [[1, 4], [3, 2], [100, -100]]
    pooled = pooled_tokens(tokens, np.array([[True, True, False]]), "mean_max")
    assert pooled.tolist() == [[2, 3, 3, 4]]


def test_attention_equals_cross_attention_written_out_and_never_sees_padding():
    probe = AttentiveProbe(4, 2, heads=3, seed=1)
    torch.nn.init.normal_(probe.direction_FHD, generator=torch.Generator().manual_seed(0))
    tokens, valid = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2)), torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3:] = False
    expected = torch.zeros(2, 2)
    for b in range(2):
        x = tokens[b][valid[b]]
        for f in range(2):
            for h in range(3):
                weight = torch.softmax(x @ probe.query_FHD[f, h] / 2, dim=0)
                expected[b, f] += weight @ (x @ probe.direction_FHD[f, h])
    torch.testing.assert_close(probe(tokens, valid), expected)
    tokens[1, 3:] = 1e4
    torch.testing.assert_close(probe(tokens, valid), expected)


def one_bright_patch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """60 studies of 30 patches; the finding is one patch whose first two channels agree, invisible to the mean."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(60, 30, 6)).astype(np.float32)
    positive = np.arange(60) % 2 == 0
    for row in np.flatnonzero(positive):
        tokens[row, rng.integers(30), :2] += 3.5
    return tokens, positive


def test_the_attentive_probe_finds_one_patch_that_the_mean_hides_and_repeats_itself():
    tokens, positive = one_bright_patch(0)
    valid = np.ones((60, 30), bool)
    training, asked = np.arange(40), np.arange(40, 60)
    target, used = positive[:40, None], np.ones((40, 1), bool)
    run = {"training": training, "target_NF": target, "used_NF": used, "asked": asked, "config": TASK, "seed": 3}
    scores = attentive_scores(tokens, valid, **run)
    mean = linear_scores(
        pooled_tokens(tokens, valid, "mean")[:40], target, used, pooled_tokens(tokens, valid, "mean")[40:], TASK
    )
    assert roc_auc_score(positive[40:], scores[:, 0]) > max(0.85, roc_auc_score(positive[40:], mean[:, 0]))
    assert (scores == attentive_scores(tokens, valid, **run)).all()


def test_intervals_hold_the_value_and_the_mean_over_seeds_is_told():
    rng = np.random.default_rng(0)
    truth = np.stack([np.arange(40) % 2 == 0, np.ones(40, bool)], axis=1)
    score = np.stack([truth + rng.normal(0, noise, truth.shape) for noise in (0.5, 1.0)])
    data = Labelled(
        tokens_BPD=np.zeros((50, 1, 1)),
        valid_BP=np.ones((50, 1), bool),
        training=np.arange(10),
        asked=np.arange(10, 50),
        training_patients=tuple("abcdefghij"),
        asked_patients=tuple(f"p{k // 2}" for k in range(40)),
        target_NF=np.zeros((10, 2), bool),
        truth_MF=truth,
        findings=("mass", "everywhere"),
    )
    setting = Setting(kind="shots", amount=1)
    rows = summarise_probes(data, {("linear", setting): (score, np.ones((2, 2)))}, resamples=200, level=0.9, seed=0)
    macro = next(row for row in rows if row["finding"] == "macro" and row["metric"] == "auroc")
    expected = [roc_auc_score(truth[:, 0], one[:, 0]) for one in score]
    assert macro["value"] == pytest.approx(np.mean(expected))  # the finding of one class is left out
    assert macro["seed_deviation"] == pytest.approx(np.std(expected, ddof=1))
    assert macro["low"] < macro["value"] < macro["high"]
    assert used_rows(data, setting, seed=0).sum() <= 4


class StudentOfBrightness:
    """A checkpoint's model as far as probes use it: mean and spread of every patch are its tokens."""

    def student(self, volume_BCZYX):
        mean = torch.nn.functional.avg_pool3d(volume_BCZYX, 8)
        spread = torch.nn.functional.avg_pool3d(volume_BCZYX**2, 8) - mean**2
        highest = torch.nn.functional.max_pool3d(volume_BCZYX, 8)
        tokens = torch.cat([mean, spread, highest], dim=1).flatten(2).transpose(1, 2)
        return type("Encoded", (), {"patch_tokens_BND": tokens})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = write_cohort(tmp_path_factory.mktemp("cohort"))
    studies = pl.read_parquet(inputs.split)["study_id"].to_list()
    read = [{"study_id": study, "status": "ok"} for study in studies]
    write_manifest(inputs.sections[0], manifest_frame(read, "sections"), "sections")
    return module.DownstreamInputs(
        checkpoint=inputs.checkpoints[0],
        resampled=inputs.resampled,
        sections=inputs.sections,
        split=inputs.split,
        features=inputs.features,
        truth=inputs.truth,
    )


def load(_):
    return LoadedArm(model=StudentOfBrightness(), grid=GRID, volume_zyx=SHAPE, windows=WINDOWS)


def config(**downstream):
    return EvaluateConfig(
        foreign_checkpoint=True, resamples=50, downstream=DownstreamConfig(**{"probe": TASK, **downstream})
    )


def macro_rows(out):
    rows = json.loads((out / "probe.json").read_text())["rows"]
    return {
        (row["probe"], row["kind"], row["amount"]): row["value"]
        for row in rows
        if row["finding"] == "macro" and row["metric"] == "auroc"
    }


def test_all_labels_find_the_lesions_and_one_study_per_class_does_worse(inputs, tmp_path):
    module.run_probe(inputs, config(), tmp_path / "probe", load=load)
    found = macro_rows(tmp_path / "probe")
    assert found["linear", "fraction", 1.0] > 0.9
    assert found["attentive", "fraction", 1.0] > 0.9
    assert len(found) == 8
    table = list(csv.DictReader((tmp_path / "probe" / "probe.csv").open()))
    assert {row["finding"] for row in table} == {"mass", "emphysema", "macro"}
    assert (tmp_path / "probe" / "probe.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe"]


def test_teacher_tokens_and_labels_of_reports_need_no_mask(inputs, tmp_path, monkeypatch):
    read = fake_tokens(inputs)
    monkeypatch.setattr(
        module, "teacher_reader", lambda features: lambda some: read(features, [s.study_id for s in some])
    )
    task = TASK.model_copy(update={"train_labels": "reports", "test_labels": "reports", "least_stated": 3})
    module.run_probe(replace(inputs, truth=None), config(probe=task, tokens="teacher"), tmp_path / "p", load=load)
    assert macro_rows(tmp_path / "p")["linear", "fraction", 1.0] > 0.9


def test_labels_of_the_truth_without_a_truth_are_refused(inputs, tmp_path):
    with pytest.raises(InputError, match="give --truth"):
        module.run_probe(replace(inputs, truth=None), config(), tmp_path / "p", load=load)
    assert not (tmp_path / "p").exists()


def test_the_command_names_a_checkpoint_that_is_not_there(inputs, tmp_path, capsys):
    arguments = ["downstream", "probe", "--checkpoint", str(tmp_path / "none"), "--split", str(inputs.split)]
    arguments += ["--resampled", str(inputs.resampled[0]), "--truth", str(inputs.truth), "--out", str(tmp_path / "o")]
    assert main([*arguments, "--config", '{"foreign_checkpoint": true}']) == 1
    assert "none" in capsys.readouterr().err
