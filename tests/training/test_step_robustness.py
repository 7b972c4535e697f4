"""Whatever a batch holds, a step has finite numbers and finite gradients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, TrainConfig
from glint.core.relations import IGNORE, NEGATIVE, POSITIVE
from glint.model.glint import Glint
from glint.training.accumulation import backward_step
from glint.training.dataset import StudySet, make_batch
from glint.training.step import Batch

CONFIG = TrainConfig(
    batch_size=4,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(1,), sigmoid=1.0, area=0.5, area_start=0.0),
)
OFTEN_ABSENT = {"gate_density_positive", "gate_density_other"}  # a mean over no pair


@pytest.fixture(scope="module")
def training() -> StudySet:
    return study_set(12, teacher=small_teacher())[0]


def empty_report(batch: Batch) -> Batch:
    """One study says nothing: none of its pairs is positive."""
    relation = batch.relation_TB.clone()
    relation[:, 0] = torch.where(relation[:, 0] == POSITIVE, NEGATIVE, relation[:, 0])
    return replace(batch, relation_TB=relation)


def constant_volumes(batch: Batch) -> Batch:
    assert batch.volume_BCZYX is not None
    return replace(batch, volume_BCZYX=torch.full_like(batch.volume_BCZYX, 0.25))


def loud_tokens(batch: Batch) -> Batch:
    """At the end of float16, where squares overflow it."""
    return replace(batch, teacher={block: torch.full_like(t, 65504.0) for block, t in batch.teacher.items()})


def close_gates(model: Glint) -> None:
    with torch.no_grad():
        model.gate.bias.fill_(-1e4)


BATCHES: dict[str, Callable[[Batch], Batch]] = {
    "no sentence": lambda batch: replace(batch, sentences=(), relation_TB=batch.relation_TB[:0]),
    "one sentence": lambda batch: replace(batch, sentences=batch.sentences[:1], relation_TB=batch.relation_TB[:1]),
    "a study without a report": empty_report,
    "every pair ignored": lambda batch: replace(batch, relation_TB=torch.full_like(batch.relation_TB, IGNORE)),
    "every pair positive": lambda batch: replace(batch, relation_TB=torch.full_like(batch.relation_TB, POSITIVE)),
    "constant volumes": constant_volumes,
    "nothing but padding": lambda batch: replace(batch, patch_weight_BP=torch.zeros_like(batch.patch_weight_BP)),
    "tokens at the end of float16": loud_tokens,
}


def check(model: Glint, batch: Batch, at_once: int | None) -> None:
    result = backward_step(model, batch, progress=0.5, gram_seed=0, at_once=at_once)
    assert {name: value for name, value in result.numbers.items() if not np.isfinite(value)}.keys() <= OFTEN_ABSENT
    assert torch.isfinite(result.total)
    for name, weight in model.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("pooling", ["gate", "mean"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", BATCHES)
def test_a_strange_batch_gives_finite_numbers_and_gradients(
    training: StudySet, what: str, precision: str, pooling: str
) -> None:
    config = CONFIG.model_copy(update={"precision": precision})
    batch = BATCHES[what](make_batch(training, config, step=0, blocks=(1,)))
    check(small_model(config, training, pooling=pooling), batch, at_once=None)


@pytest.mark.parametrize("what", BATCHES)
@pytest.mark.parametrize("gate", ["reference", "recompute"])
def test_in_pieces_and_with_every_gate_closed_too(training: StudySet, what: str, gate: str) -> None:
    config = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"gate": gate})})
    batch = BATCHES[what](make_batch(training, config, step=0, blocks=(1,)))
    check(small_model(config, training), batch, at_once=2)
    model = small_model(config, training)
    close_gates(model)
    check(model, batch, at_once=2)


@pytest.mark.parametrize("resting", [False, True])
def test_one_study_and_one_study_in_one_piece(training: StudySet, resting: bool) -> None:
    config = CONFIG.model_copy(update={"batch_size": 1})
    batch = make_batch(training, config, step=0, blocks=(1,), resting=resting)
    for at_once in (None, 1):
        check(small_model(config, training), batch, at_once)
