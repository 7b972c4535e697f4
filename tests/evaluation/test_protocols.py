"""Each protocol counts as it says: against scikit-learn, and against hand-made cases where the rules differ."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from glint.evaluation.measure import ArmCases, Cases, ChanceCases, Thresholds
from glint.evaluation.protocols import protocol_rows, weighted_f1_at_corner
from glint.evaluation.zero_shot import Answers

F, B, K = 2, 30, 4


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    positive = rng.random((F, B)) < np.array([0.5, 0.3])[:, None]
    score = (rng.normal(size=(F, B)) + positive).astype(np.float32)
    dice = np.where(positive, rng.random((F, B)) ** 3, np.nan)
    dice_FBK = np.where(positive[..., None], rng.random((F, B, K)) * np.array([0.2, 1.0, 0.5, 0.1]), np.nan)
    boxes = np.zeros((F, B, 3), np.int64)
    boxes[positive] = [2, 0, 1]
    boxes[0, positive[0]] = [1, 1, 1]
    instances = np.zeros((F, B, 3), np.int64)
    instances[positive] = [1, 2, 2]
    answers = Answers(
        score_FB=score,
        contrast_FB=score + positive,
        logits_FBP=np.zeros((F, B, 1), np.float32),
        mass_FB=score,
        grid=(1, 1, 1),
    )
    arm = ArmCases(
        answers=answers,
        pointing_FB=dice,
        dice_FB=dice,
        nonempty_FB=rng.random((F, B)) < 0.5,
        withdrawn_FB=np.zeros((F, B), bool),
        dice_FBK=dice_FBK,
        thresholds=Thresholds(lowest=0.0, step=1.0, num=K),
        peak_FB=np.where(positive, 5.0, np.arange(B) % 2 * 2.0),
        more_FB={"box_pointing": np.where(positive, 1.0, np.nan)},
        boxes_FB3=boxes,
        instances_FB3=instances,
        drawn_B=np.ones(B, bool),
    )
    nothing = np.full((F, B), np.nan)
    chance = ChanceCases(pointing_FB=nothing, dice_FB=nothing, box_pointing_FB=nothing)
    patients = tuple(f"p{k}" for k in range(B))
    return Cases(positive_FB=positive, study_B=patients, patient_B=patients, arms={"glint": arm}, chance=chance)


@pytest.fixture(scope="module")
def value(cases):
    rows = {(row.protocol, row.quantity): row.values["glint"] for row in protocol_rows(cases)}
    return lambda protocol, quantity: rows[protocol, quantity]


def test_rankings_equal_scikit_learns(cases, value):
    score, positive = cases.arms["glint"].answers.score_FB, cases.positive_FB
    auroc = np.mean([roc_auc_score(p, s) for p, s in zip(positive, score, strict=True)])
    assert value("CARZero", "AUROC") == value("RadZero", "AUROC") == pytest.approx(auroc)
    precision = np.mean([average_precision_score(p, s) for p, s in zip(positive, score, strict=True)])
    assert value("CARZero", "AUPRC, macro") == pytest.approx(precision)
    micro = average_precision_score(positive.ravel(), score.ravel())
    assert value("CARZero", "AUPRC, micro") == pytest.approx(micro)
    assert micro != pytest.approx(precision, abs=1e-3)


def test_the_negative_prompt_is_asked_for_those_without_the_finding(cases, value):
    answers = cases.arms["glint"].answers
    denied = answers.score_FB - answers.contrast_FB
    expected = np.mean([roc_auc_score(~p, s) for p, s in zip(cases.positive_FB, denied, strict=True)])
    assert value("VECL", "AUC, NEG") == pytest.approx(expected) == 1.0
    assert value("VECL", "AUC, PNC") > value("VECL", "AUC, POS")


def test_the_weighted_f1_equals_scikit_learns_at_the_point_nearest_the_corner():
    rng = np.random.default_rng(1)
    for _ in range(20):
        positive = rng.random(50) < 0.3
        score = rng.normal(size=50).round(1) + positive
        if not 0 < positive.sum() < 50:
            continue
        false, true, cuts = roc_curve(positive, score, drop_intermediate=False)
        cut = cuts[np.argmin(np.hypot(false, 1 - true))]
        assert weighted_f1_at_corner(score, positive) == pytest.approx(
            f1_score(positive, score >= cut, average="weighted", zero_division=0)
        )


def test_dice_is_taken_where_each_protocol_takes_it(cases, value):
    arm = cases.arms["glint"]
    assert value("RadZero", "Dice") == pytest.approx(np.mean([np.nanmean(one[:, 1]) for one in arm.dice_FBK]))
    assert value("RadZero", "specificity") == pytest.approx(
        np.mean([(peak[~p] <= 1.0).mean() for peak, p in zip(arm.peak_FB, cases.positive_FB, strict=True)])
    )
    assert value("EXACT", "DSC") == pytest.approx(np.mean([np.nanmean(row) for row in arm.dice_FB]))
    assert value("ReXGroundingCT", "Dice") == pytest.approx(np.nanmean(arm.dice_FB))
    assert value("EXACT", "HIT@5 %") >= value("EXACT", "HIT@10 %")
    everywhere = np.where(cases.positive_FB, arm.dice_FB, ~arm.nonempty_FB)
    assert value("MGCA", "Dice") == pytest.approx(everywhere.mean())


def test_boxes_and_instances_are_pooled(cases, value):
    first, second = cases.positive_FB.sum(axis=1)
    assert value("VECL", "pointing, strict") == pytest.approx(first / (first + 2 * second))
    assert value("VECL", "pointing") == pytest.approx((first + second) / (first + 2 * second))
    assert value("RadZero", "pointing") == 1.0
    assert value("ReXGroundingCT", "instance F1") == pytest.approx(2 / 4)
