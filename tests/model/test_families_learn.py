"""GLINT with every encoder family: its checkpoint comes back whole, its rates fall block by block, its heads can start alone."""

import json
from pathlib import Path

import pytest
import torch
from sentence_stub import BagOfWords
from tiny_encoders import CASES, tiny_encoder

from glint.core.config.train import ModelConfig, OptimizerConfig, TrainConfig
from glint.core.errors import InputError
from glint.formats.checkpoint import Preprocessing, write_checkpoint
from glint.model.glint import Glint
from glint.model.pretrained import checkpoint_of, load_glint
from glint.model.student import Student
from glint.training.optimizer import make_optimizer

Shape = tuple[int, int, int]


def glint_of(family: str, shape: Shape) -> Glint:
    config = TrainConfig(model=ModelConfig(value_width=16, gate_width=8, adapter_blocks=1))
    student = Student(tiny_encoder(family, shape), adapter_blocks=1)
    with torch.no_grad():
        for parameter in student.adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Glint(config, student=student, sentence_encoder=BagOfWords())


def saved(model: Glint, folder: Path) -> None:
    encoder = model.student.encoder
    preprocessing = Preprocessing(
        windows=((-1000.0, 0.0), (-200.0, 200.0), (0.0, 400.0)),
        volume=encoder.volume_zyx,
        patch=encoder.patch_zyx,
        grid=encoder.grid,
        resample={"spacing_mm": [4.0, 4.0, 4.0]},
    )
    write_checkpoint(folder, checkpoint_of(model, fingerprint={}, preprocessing=preprocessing, findings=["mass"]))


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_a_checkpoint_of_any_family_comes_back_with_the_same_scores(family: str, shape: Shape, tmp_path: Path) -> None:
    model = glint_of(family, shape).eval()
    saved(model, tmp_path / "glint")
    again = load_glint(tmp_path / "glint", sentence_encoder=BagOfWords())
    volume, weight = torch.rand(2, 3, *shape), torch.ones(2, torch.Size(model.student.encoder.grid).numel())
    with torch.no_grad():
        scores = [
            one.score(one.encode_volume(volume), one.encode_text(["There is a mass."]), weight)
            for one in (model, again)
        ]
    assert torch.equal(scores[0].score_TB, scores[1].score_TB)
    assert torch.equal(scores[0].gate_logits_TBP, scores[1].gate_logits_TBP)


def test_a_checkpoint_whose_encoder_is_of_no_known_family_is_refused(tmp_path: Path) -> None:
    saved(glint_of("dinov3", (1, 16, 24)), tmp_path / "glint")
    path = tmp_path / "glint" / "config.json"
    value = json.loads(path.read_text())
    value["encoder"]["family"] = "resnet"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="unknown encoder family 'resnet'") as refusal:
        load_glint(tmp_path / "glint", sentence_encoder=BagOfWords())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_rates_fall_from_the_last_block_down_to_what_stands_before_the_first(family: str, shape: Shape) -> None:
    model = glint_of(family, shape)
    config = OptimizerConfig(encoder_learning_rate=1e-4, layer_decay=0.5, head_learning_rate=1e-2)
    rates = {name: group["lr"] for group in make_optimizer(model, config).param_groups for name in group["names"]}

    def rate_of(start: str, *, without: tuple[str, ...] = ()) -> float:
        found = {rate for name, rate in rates.items() if name.startswith(start) and not name.startswith(without)}
        assert len(found) == 1, found
        return found.pop()

    encoder = "student.encoder."
    falling = [rate_of(f"{encoder}blocks.{block}.") for block in (2, 1, 0)]
    before = rate_of(encoder, without=(f"{encoder}blocks.", f"{encoder}norm."))
    assert [rate_of(f"{encoder}norm."), *falling, before] == pytest.approx([1e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5])
    assert rate_of("student.adapter") == pytest.approx(1e-2)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(rates) == learning
    assert not any(
        name.startswith(f"student.encoder.{prefix}") for prefix in model.student.encoder.idle for name in rates
    )


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_heads_can_learn_from_cached_tokens_while_the_student_still_is_its_teacher(family: str, shape: Shape) -> None:
    """Given the last block's output, the final tokens (without adapter: its blocks start as identities)."""
    student = Student(tiny_encoder(family, shape), adapter_blocks=1).train()
    with torch.no_grad():
        encoded = student(torch.rand(2, 3, *shape), layers=(2,))
        torch.testing.assert_close(student.resting_tokens(encoded.hidden[2]), encoded.patch_tokens_BND)
