"""Every loss against its equation, written as loops over pairs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from glint.core import relations
from glint.losses.area import area_loss, mean_gate
from glint.losses.contrastive import contrastive_loss
from glint.losses.dense_feature import dense_feature_loss, gram_term, patch_cosine
from glint.losses.evidence import evidence_loss
from glint.losses.pairs import count_pairs
from glint.losses.sigmoid import sigmoid_loss
from glint.prepare.sections import sentence_classes

POSITIVE, NEGATIVE, HARD, IGNORE = 1, 0, 2, -1
RELATION = torch.tensor(
    [[1, 0, 2, -1], [1, 1, 0, 0], [-1, -1, -1, -1], [1, -1, -1, -1], [0, 2, -1, 0]], dtype=torch.int8
)


def evidence_of(logits_TBP: Tensor, weight_BP: Tensor) -> Tensor:
    return (torch.nn.functional.softplus(logits_TBP) * weight_BP).sum(dim=-1)


def scores(seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(5, 4, dtype=torch.float64) * 2 - 1


def contrastive_by_loops(score: Tensor, relation: Tensor, kappa: float) -> float:
    def direction(s: np.ndarray, r: np.ndarray) -> float:
        losses = []
        for row in range(s.shape[0]):
            negatives = sum(math.exp(kappa * s[row, j]) for j in range(s.shape[1]) if r[row, j] in (NEGATIVE, HARD))
            for i in range(s.shape[1]):
                if r[row, i] == POSITIVE:
                    own = math.exp(kappa * s[row, i])
                    losses.append(-math.log(own / (own + negatives)))
        return sum(losses) / len(losses)

    s, r = score.numpy(), relation.numpy()
    return 0.5 * (direction(s, r) + direction(s.T, r.T))


def test_relation_codes_are_those_of_report_parsing() -> None:
    for name in ("POSITIVE", "NEGATIVE", "HARD_NEGATIVE", "IGNORE"):
        assert getattr(relations, name) == getattr(sentence_classes, name)


def test_contrastive_loss_equals_its_equation() -> None:
    found = contrastive_loss(scores(), RELATION, inverse_temperature=9.0)
    assert found.item() == pytest.approx(contrastive_by_loops(scores(), RELATION, 9.0), abs=1e-12)


def test_contrastive_loss_survives_scores_that_overflow_exp() -> None:
    score = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = contrastive_loss(score, torch.tensor([[NEGATIVE, POSITIVE]]), inverse_temperature=1000.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 2000 + 0, rel=1e-6)
    assert torch.isfinite(score.grad).all()  # type: ignore[arg-type]


def test_ignored_pairs_move_nothing() -> None:
    score = scores().requires_grad_()
    total = contrastive_loss(score, RELATION, inverse_temperature=9.0) + sigmoid_loss(
        score, RELATION, scale=9.0, bias=-3.0
    )
    total.backward()
    assert score.grad is not None
    assert (score.grad[RELATION == IGNORE] == 0).all()
    assert (score.grad[:2][RELATION[:2] != IGNORE] != 0).all()


def test_sigmoid_loss_equals_its_equation() -> None:
    score, scale, bias = scores().numpy(), 5.0, -2.0
    total = 0.0
    for t in range(5):
        for b in range(4):
            if RELATION[t, b] != IGNORE:
                y = 1 if RELATION[t, b] == POSITIVE else -1
                total += math.log(1 + math.exp(-y * (scale * score[t, b] + bias)))
    found = sigmoid_loss(scores(), RELATION, scale=scale, bias=bias)
    assert found.item() == pytest.approx(total / 4, abs=1e-12)  # the third sentence has no usable pair


def test_area_loss_closes_contradicted_gates_and_stops_floods() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, dtype=torch.float64) * 4
    weight = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64)
    relation = torch.tensor([[POSITIVE, HARD, IGNORE], [HARD, POSITIVE, NEGATIVE]])
    gate = 1 / (1 + np.exp(-logits.numpy()))
    w = weight.numpy()
    mean = (gate * w).sum(-1) / w.sum(-1)
    expected = (mean[0, 1] + mean[1, 0]) / 2 + (max(0, mean[0, 0] - 0.1) + max(0, mean[1, 1] - 0.1)) / 2
    found = mean_gate((torch.sigmoid(logits) * weight).sum(dim=-1), weight.sum(dim=-1))
    np.testing.assert_allclose(found, mean, atol=1e-12)
    assert area_loss(found, relation, area_max=0.1).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("extent", [1.0, 3.0])
def test_evidence_loss_is_noisy_or_of_the_patches(extent: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, dtype=torch.float64)
    weight = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0.5, 1, 1, 1, 1, 1]], dtype=torch.float64)
    relation = torch.tensor([[POSITIVE, HARD, IGNORE], [NEGATIVE, POSITIVE, NEGATIVE]])
    gate, w = 1 / (1 + np.exp(-logits.numpy())), weight.numpy()
    absent = np.prod((1 - gate) ** w, axis=-1)
    positives = [-math.log(1 - absent[t, b] ** (1 / extent)) for t, b in ((0, 0), (1, 1))]
    negatives = [-math.log(absent[t, b]) for t, b in ((0, 1), (1, 0), (1, 2))]
    expected = 0.5 * (np.mean(positives) + np.mean(negatives))
    found = evidence_loss(evidence_of(logits, weight), relation, extent=extent)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_evidence_loss_is_finite_and_pulls_when_every_gate_is_shut() -> None:
    logits = torch.full((1, 1, 4), -200.0, requires_grad=True)
    loss = evidence_loss(evidence_of(logits, torch.ones(1, 4)), torch.tensor([[POSITIVE]]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("relation", [IGNORE, POSITIVE, NEGATIVE, HARD])
def test_a_batch_of_one_relation_gives_finite_losses_and_gradients(relation: int) -> None:
    for shape in ((1, 1), (3, 1), (1, 3), (0, 3)):
        score = torch.zeros(shape, requires_grad=True)
        logits = torch.zeros(*shape, 4, requires_grad=True)
        codes, weight = torch.full(shape, relation), torch.zeros(shape[1], 4)
        mass = (torch.sigmoid(logits) * weight).sum(dim=-1)
        total = (
            contrastive_loss(score, codes, inverse_temperature=14.0)
            + sigmoid_loss(score, codes, scale=10.0, bias=-10.0)
            + area_loss(mean_gate(mass, weight.sum(dim=-1)), codes, area_max=0.4)
            + evidence_loss(evidence_of(logits, weight), codes)
        )
        total.backward()
        assert math.isfinite(total.item())
        assert torch.isfinite(score.grad).all()  # type: ignore[arg-type]
        assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_dense_loss_ignores_scale_and_offset_of_tokens() -> None:
    torch.manual_seed(2)
    teacher = {0: torch.randn(2, 6, 16), 2: torch.randn(2, 6, 16)}
    student = {block: 3 * tokens + 5 for block, tokens in teacher.items()}
    assert dense_feature_loss(student, teacher).item() < 1e-6


def test_dense_loss_is_the_mean_over_blocks_of_cosine_and_gram_terms() -> None:
    torch.manual_seed(3)
    teacher = {0: torch.randn(2, 6, 16), 2: torch.randn(2, 6, 16)}
    student = {0: torch.randn(2, 6, 16), 2: torch.randn(2, 6, 16)}

    def normal(tokens: Tensor) -> np.ndarray:
        x = tokens.double().numpy()
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    total = 0.0
    for block in (0, 2):
        f, g = normal(student[block]), normal(teacher[block])
        cosine = (f * g).sum(-1)
        gram = ((f @ f.transpose(0, 2, 1) - g @ g.transpose(0, 2, 1)) ** 2).sum((1, 2)) / 36
        total += (1 - cosine).mean() + 0.7 * gram.mean()
        np.testing.assert_allclose(patch_cosine(student[block], teacher[block]), cosine, atol=1e-5)
    found = dense_feature_loss(student, teacher, gram_weight=0.7)
    assert found.item() == pytest.approx(total / 2, abs=1e-5)


def test_gram_term_sees_relations_between_patches_alone() -> None:
    torch.manual_seed(4)
    tokens = torch.randn(1, 6, 16)
    tokens = tokens - tokens.mean(-1, keepdim=True)
    # An orthogonal map that keeps the all-ones direction leaves every cosine between patches as it is.
    basis = torch.linalg.qr(torch.cat([torch.ones(16, 1), torch.randn(16, 15)], dim=1))[0]
    turn = torch.linalg.qr(torch.randn(15, 15))[0]
    rotated = tokens @ (basis[:, :1] @ basis[:, :1].T + basis[:, 1:] @ turn @ basis[:, 1:].T)
    assert gram_term(rotated, tokens).item() < 1e-8
    assert patch_cosine(rotated, tokens).mean().item() < 0.6


@pytest.mark.parametrize("cut", [1, 3])
def test_pair_local_losses_of_the_parts_of_a_batch_add_up(cut: int) -> None:
    counts = count_pairs(RELATION)
    evidence, gate = scores(1) + 1.5, scores(2).abs()

    def total(part: slice) -> Tensor:
        codes = RELATION[:, part]
        return (
            sigmoid_loss(scores()[:, part], codes, scale=4.0, bias=-1.0, counts=counts)
            + area_loss(gate[:, part], codes, area_max=0.3, counts=counts)
            + evidence_loss(evidence[:, part], codes, counts=counts)
        )

    whole = (
        sigmoid_loss(scores(), RELATION, scale=4.0, bias=-1.0)
        + area_loss(gate, RELATION, area_max=0.3)
        + evidence_loss(evidence, RELATION)
    )
    torch.testing.assert_close(total(slice(cut)) + total(slice(cut, None)), whole, atol=1e-12, rtol=0)
