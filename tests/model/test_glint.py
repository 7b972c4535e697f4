"""The assembled model: its two patch spaces, its whitened start, its poolings."""

import numpy as np
import pytest
import torch
from sentence_stub import BagOfWords

from glint.core.config.train import ModelConfig, TrainConfig
from glint.model.glint import Glint
from glint.model.pooling import POOLINGS
from glint.model.student import Student
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D

ENCODER = EncoderConfig(volume_zyx=(16, 16, 24), patch_zyx=(8, 8, 8), width=48, depth=2, heads=1)


def make_model(pooling: str = "gate") -> Glint:
    torch.manual_seed(0)
    config = TrainConfig(model=ModelConfig(value_width=16, gate_width=8, pooling=pooling))
    return Glint(config, student=Student(VisionTransformer3D(ENCODER)), sentence_encoder=BagOfWords())


def test_patches_enter_both_spaces_through_norm_and_map() -> None:
    model, tokens = make_model(), torch.randn(2, 12, 48)
    x = tokens.numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    found = model.project(tokens)
    for head, vectors in ((model.to_value, found.value_BPD), (model.to_gate, found.gate_BPG)):
        mapped = x @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        expected = mapped / np.linalg.norm(mapped, axis=-1, keepdims=True)
        np.testing.assert_allclose(vectors.detach().numpy(), expected, atol=1e-5)


def test_whitened_heads_are_not_ruled_by_one_loud_axis() -> None:
    model = make_model()
    loud = torch.ones(48)
    loud[0] = 20.0
    tokens_ND = torch.randn(4000, 48) * loud + 5.0

    def mapped_and_share() -> tuple[torch.Tensor, float]:
        with torch.no_grad():
            mapped_ND = model.to_value(model.value_norm(tokens_ND))
        with_loud = torch.corrcoef(torch.cat([mapped_ND, tokens_ND[:, :1]], dim=1).T)[-1, :-1]
        return mapped_ND, float(with_loud.square().mean())

    _, plain = mapped_and_share()
    model.whiten_heads(tokens_ND, ridge=1e-3)
    mapped_ND, whitened = mapped_and_share()
    torch.testing.assert_close(mapped_ND.mean(dim=0), torch.zeros(16), atol=1e-3, rtol=0)
    assert plain > 0.3
    assert whitened < 0.1


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_answers_with_the_same_fields(pooling: str) -> None:
    model = make_model(pooling)
    found = model.score(
        model.encode_volume(torch.rand(2, 3, 16, 16, 24)), model.encode_text(["a b", "c", "d"]), torch.ones(2, 12)
    )
    assert found.score_TB.shape == found.gate_mass_TB.shape == (3, 2)
    assert found.gate_logits_TBP.shape == (3, 2, 12)
    assert found.bias.item() == model.pooling.bias(model).item()
    if pooling != "conditioned":  # its keys are not of unit length
        scales = {"mean": model.sigmoid_scale, "softmax_similarity": model.inverse_temperature}
        cosine_TBP = (found.gate_logits_TBP - found.bias) / scales.get(pooling, model.gate.scale)
        assert cosine_TBP.abs().max() <= 1 + 1e-6
    assert found.score_TB.abs().max() <= 1 + 1e-6
