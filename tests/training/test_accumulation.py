"""A batch in pieces has the gradient of the batch at once; batches of piece size have another one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, TrainConfig
from glint.training.accumulation import backward_step, number_of_pieces
from glint.training.dataset import StudySet, make_batch
from glint.training.loop import Run, train

CONFIG = TrainConfig(
    head_steps=3,
    steps=3,
    batch_size=6,
    validate_every=6,
    precision="float64",
    pictured_findings=0,
    model=ModelConfig(value_width=16, gate_width=8, adapter_blocks=1),
    # Every term on, and a scale that learns: each takes another way through the noted numbers.
    loss=LossConfig(dense_blocks=(0, 1), sigmoid=1.0, area=0.5, area_start=0.0),
)


@pytest.fixture(scope="module")
def training() -> StudySet:
    return study_set(12, teacher=small_teacher())[0]


def gradients(
    training: StudySet,
    at_once: int | None,
    *,
    pooling: str = "gate",
    resting: bool = False,
    no_text: bool = False,
    config: TrainConfig = CONFIG,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    model = small_model(config, training, pooling=pooling).double()
    batch = make_batch(training, CONFIG, step=1, blocks=(0, 1), resting=resting)
    if no_text:
        batch = replace(batch, sentences=(), relation_TB=batch.relation_TB[:0])
    result = backward_step(model, batch, progress=0.5, gram_seed=3, at_once=at_once)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return found, result.numbers


@pytest.mark.parametrize("pooling", ["gate", "mean"])
@pytest.mark.parametrize("resting", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_pieces_give_the_gradient_and_the_numbers_of_the_whole_batch(
    training: StudySet, pooling: str, resting: bool, at_once: int
) -> None:
    expected, told = gradients(training, None, pooling=pooling, resting=resting)
    found, said = gradients(training, at_once, pooling=pooling, resting=resting)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-10, atol=1e-12), name
    assert said == pytest.approx(told, rel=1e-10, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("gate", "contrastive"), [("recompute", 1.0), ("one_pass", 0.0)])
def test_the_gate_may_be_blocked_in_pieces_too(training: StudySet, gate: str, contrastive: float) -> None:
    changes = {
        "model": CONFIG.model.model_copy(update={"gate": gate}),
        "loss": CONFIG.loss.model_copy(update={"contrastive": contrastive}),
    }
    config = CONFIG.model_copy(update=changes)
    (expected, told), (found, said) = gradients(training, None, config=config), gradients(training, 2, config=config)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-11), name
    assert said == pytest.approx(told, rel=1e-9, abs=1e-11, nan_ok=True)


def test_adding_up_the_losses_of_small_batches_would_be_another_gradient(training: StudySet) -> None:
    """The check above can fail: without the noted numbers, in-batch negatives are lost."""
    expected, _ = gradients(training, None)
    model = small_model(CONFIG, training).double()
    whole = make_batch(training, CONFIG, step=1, blocks=(0, 1))
    for number in range(3):
        part = whole.piece(number, 3)
        own = replace(part, relation_TB=whole.relation_TB[:, 2 * number : 2 * number + 2])
        backward_step(model, own, progress=0.5, gram_seed=3)
    found = {name: weight.grad / 3 for name, weight in model.named_parameters() if weight.grad is not None}
    assert not torch.allclose(found["to_value.weight"], expected["to_value.weight"], rtol=0.05)


def test_a_batch_without_sentences_still_holds_the_features(training: StudySet) -> None:
    expected, _ = gradients(training, None, no_text=True)
    found, numbers = gradients(training, 2, no_text=True)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-12) for name in expected)
    assert torch.isfinite(torch.tensor(numbers["loss"]))


@pytest.mark.parametrize(("studies", "at_once", "pieces"), [(6, None, 1), (6, 8, 1), (6, 4, 2), (6, 1, 6), (7, 4, 7)])
def test_pieces_are_equal_and_as_few_as_fit(studies: int, at_once: int | None, pieces: int) -> None:
    assert number_of_pieces(studies, at_once) == pieces


def test_a_whole_training_in_pieces_ends_in_the_same_weights(training: StudySet, tmp_path: Path) -> None:
    def run(at_once: int | None) -> Run:
        config = CONFIG.model_copy(update={"micro_batch_size": at_once})
        state = tmp_path / str(at_once)
        return train(
            small_model(config, training), training, config=config, state=state, key="k", findings=tuple(FINDINGS)
        )

    whole, pieces = run(None), run(2)
    for name, tensor in whole.model.state_dict().items():
        assert torch.allclose(pieces.model.state_dict()[name], tensor, rtol=0, atol=1e-10), name
    for row, expected in zip(pieces.curves, whole.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_fewer_activations_are_held_in_pieces(training: StudySet) -> None:
    """Elements that autograd saves for the backward pass, by its own hooks; texts and noted numbers are small."""

    def most_held(at_once: int | None) -> int:
        model = small_model(CONFIG, training).double()
        batch = make_batch(training, CONFIG, step=1, blocks=(0, 1))
        held = most = 0

        class Saved:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal held, most
                self.tensor = tensor
                held += tensor.numel()
                most = max(most, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            backward_step(model, batch, progress=0.5, gram_seed=3, at_once=at_once)
        return most

    assert most_held(1) < 0.4 * most_held(None)
