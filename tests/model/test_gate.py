"""The gate and the pooling against their equations, written as loops over numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from glint.model.alignment import Alignment, global_alignment, pool_evidence, valid_patches
from glint.model.gate import Gate, PatchTokens, TextQueries, gate_logits, unit

T, B, P, D, G = 3, 2, 5, 4, 6
RHO = {"separate": 0.0, "shared": 1.0, "residual": 0.3}


def random_inputs(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[TextQueries, PatchTokens]:
    torch.manual_seed(seed)
    queries = TextQueries(text_TD=unit(torch.randn(T, D, dtype=dtype)), gate_TG=unit(torch.randn(T, G, dtype=dtype)))
    value = torch.randn(B, P, D, dtype=dtype)
    tokens = PatchTokens(
        value_BPD=unit(value), gate_BPG=unit(torch.randn(B, P, G, dtype=dtype)), projected_BPD=value, hidden={}
    )
    return queries, tokens


def align(
    queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor, *, bias: float = -1.0, null_weight: float = 1.0
) -> Alignment:
    dtype = queries.text_TD.dtype
    logits = gate_logits(
        queries, tokens, scale=torch.tensor(7.0, dtype=dtype), bias=torch.tensor(bias, dtype=dtype), rho=0.3
    )
    null_D = torch.arange(1, D + 1, dtype=dtype)
    return pool_evidence(logits, queries, tokens, weight_BP, null_D, null_weight=null_weight, bias=torch.tensor(0.0))


@pytest.mark.parametrize("space", ["separate", "shared", "residual"])
def test_gate_and_score_equal_the_equations(space: str) -> None:
    queries, tokens = random_inputs()
    alpha, bias, mu = 7.0, -1.0, 0.8
    weight = np.array([[1, 0.5, 0, 1, 2], [0.25, 1, 1, 0, 1.0]])
    null = np.array([0.0, 3.0, 0.0, 4.0])
    logits = gate_logits(
        queries, tokens, scale=torch.tensor(alpha).double(), bias=torch.tensor(bias).double(), rho=RHO[space]
    )
    found = pool_evidence(
        logits,
        queries,
        tokens,
        torch.from_numpy(weight),
        torch.from_numpy(null),
        null_weight=mu,
        bias=torch.tensor(0.0),
    )
    t, q = queries.text_TD.numpy(), queries.gate_TG.numpy()
    v, k = tokens.value_BPD.numpy(), tokens.gate_BPG.numpy()
    for a in range(T):
        for i in range(B):
            mass, gathered = 0.0, mu * null / 5.0
            for p in range(P):
                z = alpha * ((1 - RHO[space]) * q[a] @ k[i, p] + RHO[space] * t[a] @ v[i, p]) + bias
                assert found.gate_logits_TBP[a, i, p] == pytest.approx(z, abs=1e-12)
                opened = weight[i, p] / (1 + math.exp(-z))
                mass, gathered = mass + opened, gathered + opened * v[i, p]
            pooled = gathered / (mass + mu)
            assert found.gate_mass_TB[a, i] == pytest.approx(mass, abs=1e-12)
            assert found.score_TB[a, i] == pytest.approx(t[a] @ pooled / np.linalg.norm(pooled), abs=1e-12)


def test_gradients_are_right_in_double_precision() -> None:
    queries, tokens = random_inputs()
    weight_BP = torch.tensor([[1, 0.5, 0, 1, 2], [0.25, 1, 1, 0, 1.0]], dtype=torch.float64)

    def score_and_mass(
        text: Tensor, query: Tensor, value: Tensor, key: Tensor, scale: Tensor, bias: Tensor, null: Tensor
    ) -> Tensor:
        asked = TextQueries(text_TD=unit(text), gate_TG=unit(query))
        seen = PatchTokens(value_BPD=unit(value), gate_BPG=unit(key), projected_BPD=value, hidden={})
        logits = gate_logits(asked, seen, scale=scale, bias=bias, rho=0.5)
        found = pool_evidence(logits, asked, seen, weight_BP, null, null_weight=1.0, bias=torch.tensor(0.0))
        return torch.stack([found.score_TB, found.gate_mass_TB])

    arguments = [
        queries.text_TD,
        queries.gate_TG,
        tokens.value_BPD,
        tokens.gate_BPG,
        torch.tensor(5.0),
        torch.tensor(-1.0),
    ]
    leaves = [a.double().clone().requires_grad_() for a in [*arguments, torch.randn(D)]]
    assert torch.autograd.gradcheck(score_and_mass, leaves)


@pytest.mark.parametrize(("bias", "valid"), [(-500.0, 1.0), (-1.0, 0.0), (-500.0, 0.0)])
@pytest.mark.parametrize("null_weight", [1.0, 0.0])
def test_closed_gates_and_masked_volumes_stay_finite(bias: float, valid: float, null_weight: float) -> None:
    queries, tokens = random_inputs(dtype=torch.float32)
    value = tokens.projected_BPD.clone().requires_grad_()
    tokens = PatchTokens(value_BPD=unit(value), gate_BPG=tokens.gate_BPG, projected_BPD=value, hidden={})
    found = align(queries, tokens, torch.full((B, P), valid), bias=bias, null_weight=null_weight)
    assert torch.isfinite(found.score_TB).all()
    found.score_TB.sum().backward()
    assert value.grad is not None
    assert torch.isfinite(value.grad).all()


def test_without_evidence_the_score_is_the_sentence_against_the_null_vector() -> None:
    queries, tokens = random_inputs()
    found = align(queries, tokens, torch.zeros(B, P, dtype=torch.float64))
    null = np.arange(1, D + 1) / np.linalg.norm(np.arange(1, D + 1))
    np.testing.assert_allclose(found.score_TB, np.tile((queries.text_TD.numpy() @ null)[:, None], (1, B)), atol=1e-12)


def test_four_quarter_patches_are_worth_one_patch() -> None:
    queries, tokens = random_inputs(dtype=torch.float32)
    finer = PatchTokens(
        value_BPD=tokens.value_BPD.repeat_interleave(4, dim=1),
        gate_BPG=tokens.gate_BPG.repeat_interleave(4, dim=1),
        projected_BPD=tokens.projected_BPD.repeat_interleave(4, dim=1),
        hidden={},
    )
    coarse = align(queries, tokens, torch.ones(B, P))
    fine = align(queries, finer, torch.full((B, 4 * P), 0.25))
    torch.testing.assert_close(fine.score_TB, coarse.score_TB, atol=1e-5, rtol=0)
    torch.testing.assert_close(fine.gate_mass_TB, coarse.gate_mass_TB, atol=1e-5, rtol=0)


def test_one_sentence_and_one_volume_keep_their_axes() -> None:
    queries, tokens = random_inputs()
    one = TextQueries(text_TD=queries.text_TD[:1], gate_TG=queries.gate_TG[:1])
    volume = PatchTokens(
        value_BPD=tokens.value_BPD[:1], gate_BPG=tokens.gate_BPG[:1], projected_BPD=tokens.projected_BPD[:1], hidden={}
    )
    found = align(one, volume, torch.ones(1, P, dtype=torch.float64))
    assert (found.score_TB.shape, found.gate_logits_TBP.shape, found.gate_mass_TB.shape) == ((1, 1), (1, 1, P), (1, 1))


def test_half_precision_tokens_are_gated_in_float32() -> None:
    queries, tokens = random_inputs(dtype=torch.bfloat16)
    found = align(queries, tokens, torch.ones(B, P))
    assert found.score_TB.dtype == found.gate_mass_TB.dtype == torch.float32


def test_gate_scale_is_learned_in_the_logarithm_and_limited() -> None:
    gate = Gate(space="residual", rho=0.5, scale_init=10.0, scale_max=50.0, bias_init=-6.0)
    assert gate.scale.item() == pytest.approx(10.0)
    with torch.no_grad():
        gate.log_scale.fill_(math.log(80.0))
    assert gate.scale.item() == pytest.approx(50.0)


def test_baseline_scores_the_mean_of_valid_patches() -> None:
    queries, tokens = random_inputs()
    weight = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 1.0]], dtype=torch.float64)
    found = global_alignment(queries, tokens, weight, scale=torch.tensor(10.0), bias=torch.tensor(-3.0))
    value, text = tokens.projected_BPD.numpy(), queries.text_TD.numpy()
    mean = np.stack([value[0, :2].mean(axis=0), value[1, 4]])
    np.testing.assert_allclose(
        found.score_TB, text @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T, atol=1e-12
    )
    patch = value[1, 2] / np.linalg.norm(value[1, 2])
    assert found.gate_logits_TBP[1, 1, 2].item() == pytest.approx(10 * text[1] @ patch - 3)


def test_patches_mostly_in_the_padding_are_invalid() -> None:
    # 4 x 2 x 2 patches of 4 voxels: z from 2 covers half of patch 0; x up to 5 covers a quarter of patch 1.
    valid = valid_patches((2, 16, 0, 8, 0, 5), (16, 8, 8), (4, 4, 4)).reshape(4, 2, 2)
    assert valid[:, :, 0].all()
    assert not valid[:, :, 1].any()
