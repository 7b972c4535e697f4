"""The baselines in the gate's place, against their definitions."""

import math

import numpy as np
import pytest
import torch
from sentence_stub import BagOfWords
from torch import Tensor, nn

from glint.core.config.train import ModelConfig, TrainConfig
from glint.model.gate import PatchTokens, TextQueries, unit
from glint.model.glint import Glint
from glint.model.pooling import POOLINGS, ConditionedPooling
from glint.model.student import Student
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D

ENCODER = EncoderConfig(volume_zyx=(16, 16, 24), patch_zyx=(8, 8, 8), width=48, depth=1, heads=1)
T, B, P, D, G = 3, 2, 5, 8, 6
WEIGHT = torch.tensor([[1, 0.5, 0, 1, 2], [0.25, 1, 1, 0, 1.0]])


def make_model(pooling: str) -> Glint:
    torch.manual_seed(0)
    config = TrainConfig(model=ModelConfig(value_width=D, gate_width=G, pooling=pooling))
    return Glint(config, student=Student(VisionTransformer3D(ENCODER)), sentence_encoder=BagOfWords())


def both_sides() -> tuple[TextQueries, PatchTokens]:
    torch.manual_seed(1)
    value = torch.randn(B, P, D)
    queries = TextQueries(text_TD=unit(torch.randn(T, D)), gate_TG=unit(torch.randn(T, G)))
    return queries, PatchTokens(
        value_BPD=unit(value), gate_BPG=unit(torch.randn(B, P, G)), projected_BPD=value, hidden={}
    )


@pytest.mark.parametrize("pooling", ["softmax_similarity", "softmax_gate"])
def test_softmax_poolings_equal_their_equation(pooling: str) -> None:
    model, (queries, tokens) = make_model(pooling), both_sides()
    found = model.score(tokens, queries, WEIGHT)
    t, q = queries.text_TD.numpy(), queries.gate_TG.numpy()
    v, k, c = tokens.value_BPD.numpy(), tokens.gate_BPG.numpy(), WEIGHT.numpy()
    tau = 1 / model.inverse_temperature.item()
    for a in range(T):
        for i in range(B):
            if pooling == "softmax_similarity":
                z = [t[a] @ v[i, p] / tau for p in range(P)]
            else:
                z = [model.gate.scale.item() * (0.5 * q[a] @ k[i, p] + 0.5 * t[a] @ v[i, p]) for p in range(P)]
            total = sum(c[i, p] * math.exp(z[p]) for p in range(P))
            pooled = sum(c[i, p] * math.exp(z[p]) / total * v[i, p] for p in range(P))
            assert found.score_TB[a, i].item() == pytest.approx(t[a] @ pooled / np.linalg.norm(pooled), abs=1e-5)
            map_P = (found.gate_logits_TBP[a, i] - found.bias).detach().numpy()
            np.testing.assert_allclose(map_P, z, atol=1e-5)


def test_conditioned_pooling_equals_multi_head_attention_with_a_zero_slot() -> None:
    torch.manual_seed(2)
    ours = ConditionedPooling(D, heads=2)
    theirs = nn.MultiheadAttention(D, 2, add_zero_attn=True, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([one.weight for one in (ours.to_query, ours.to_key, ours.to_value)]))
        theirs.in_proj_bias.copy_(torch.cat([one.bias for one in (ours.to_query, ours.to_key, ours.to_value)]))
        theirs.out_proj.load_state_dict(ours.to_output.state_dict())
    queries, tokens = both_sides()
    pooled_TBD, _ = ours(queries.text_TD, tokens.projected_BPD, WEIGHT)
    asked_BTD = queries.text_TD.expand(B, -1, -1)
    expected_BTD, _ = theirs(asked_BTD, tokens.projected_BPD, tokens.projected_BPD, key_padding_mask=WEIGHT <= 0)
    torch.testing.assert_close(pooled_TBD.transpose(0, 1), expected_BTD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_volumes_without_a_valid_patch_stay_finite(pooling: str) -> None:
    model, (queries, tokens) = make_model(pooling), both_sides()
    nothing: Tensor = torch.zeros(B, P)
    tokens = model.project(torch.randn(B, P, 48, requires_grad=True))
    model.score(tokens, queries, nothing).score_TB.sum().backward()
    assert torch.isfinite(model.score(tokens, queries, nothing).score_TB).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
