"""What any implementation of the method has to do: eight tests, numbered as in the specification, and losses that never are NaN."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import FINDINGS, GRID, PATCH, PATCHES, WINDOWS, small_model, small_teacher, study_set
from torch import Tensor

from glint.core.config.train import LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from glint.core.prompts import finding_prompt
from glint.formats.feature_cache import FeatureCache, write_cache
from glint.formats.feature_rows import CacheHead
from glint.losses.dense_feature import dense_feature_loss
from glint.model.alignment import Alignment
from glint.model.blocked_gate import GateArguments, compare_recomputing, one_pass_loss
from glint.model.gate import PatchTokens, TextQueries, unit
from glint.model.gate_blocks import BlockSizes
from glint.model.glint import Glint
from glint.prepare.resample import window_channels
from glint.training.dataset import StudySet, make_batch, volume_tensor
from glint.training.loop import train
from glint.training.step import Batch, training_step

CONFIG = TrainConfig(
    batch_size=4,
    head_steps=0,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(0, 1), area_start=0.0, sigmoid=1.0),
)
LOCAL = CONFIG.model_copy(update={"loss": CONFIG.loss.model_copy(update={"contrastive": 0.0})})
MODES = {"reference": CONFIG, "recompute": CONFIG, "one_pass": LOCAL}


@pytest.fixture(scope="module")
def studies() -> StudySet:
    return study_set(12, teacher=small_teacher())[0]


@pytest.fixture
def batch(studies: StudySet) -> Batch:
    return make_batch(studies, CONFIG, step=0, blocks=(0, 1))


def model_of(studies: StudySet, mode: str = "reference") -> Glint:
    config = MODES[mode]
    return small_model(config.model_copy(update={"model": config.model.model_copy(update={"gate": mode})}), studies)


def step(model: Glint, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one training step."""
    result = training_step(model, batch, progress=0.5, gram_generator=torch.Generator().manual_seed(0))
    if result.total.requires_grad:
        result.total.backward()
    return result.total.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def scored(model: Glint, batch: Batch, weight_BP: Tensor) -> Alignment:
    assert batch.volume_BCZYX is not None
    return model.score(model.encode_volume(batch.volume_BCZYX), model.encode_text(batch.sentences), weight_BP)


def test_1_a_student_that_is_its_teacher_has_no_dense_feature_loss_in_train_mode(
    studies: StudySet, batch: Batch
) -> None:
    model = model_of(studies).train()
    assert batch.volume_BCZYX is not None
    hidden = model.encode_volume(batch.volume_BCZYX, layers=(0, 1)).hidden
    encoded = small_teacher().encode(batch.volume_BCZYX, layers=(0, 1)).hidden
    assert dense_feature_loss(hidden, encoded).item() < 1e-6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("bias", "valid"), [(-500.0, 1.0), (-6.0, 0.0)], ids=["all gates closed", "all patches masked"]
)
def test_2_without_evidence_scores_are_finite_and_no_gradient_is_nan(
    studies: StudySet, batch: Batch, mode: str, bias: float, valid: float
) -> None:
    model, weight_BP = model_of(studies, mode), torch.full_like(batch.patch_weight_BP, valid)
    with torch.no_grad():
        model.gate.bias.fill_(bias)
    assert torch.isfinite(scored(model, batch, weight_BP).score_TB).all()
    total, gradients = step(model, replace(batch, patch_weight_BP=weight_BP))
    assert np.isfinite(total)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_3_four_quarters_of_a_patch_are_worth_the_patch(studies: StudySet, batch: Batch) -> None:
    model = model_of(studies)
    tokens_BPD = torch.randn(4, PATCHES, 48)
    queries = model.encode_text(batch.sentences)
    whole = model.score(model.project(tokens_BPD), queries, torch.ones(4, PATCHES))
    quarters = model.score(
        model.project(tokens_BPD.repeat_interleave(4, dim=1)), queries, torch.full((4, 4 * PATCHES), 0.25)
    )
    torch.testing.assert_close(quarters.gate_mass_TB, whole.gate_mass_TB, atol=1e-5, rtol=0)
    torch.testing.assert_close(quarters.score_TB, whole.score_TB, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_4_texts_said_twice_give_the_loss_of_texts_said_once(studies: StudySet, batch: Batch, mode: str) -> None:
    twice = replace(batch, sentences=batch.sentences * 2, relation_TB=torch.cat([batch.relation_TB] * 2))
    assert step(model_of(studies, mode), twice)[0] == pytest.approx(step(model_of(studies, mode), batch)[0], rel=1e-6)


def test_5_the_gate_in_parts_is_the_gate_forward_and_backward() -> None:
    torch.manual_seed(5)
    shapes = ((9, 6), (5, 11, 6), (9, 8), (5, 11, 8), (8,))
    given = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (7.0, -2.0)]

    def arguments() -> GateArguments:
        query, key, text, value, null = given
        return GateArguments(
            queries=TextQueries(text_TD=unit(text), gate_TG=unit(query)),
            tokens=PatchTokens(value_BPD=unit(value), gate_BPG=unit(key), projected_BPD=value, hidden={}),
            weight_BP=torch.ones(5, 11, dtype=torch.float64),
            null_D=null,
            scale=scalars[0],
            bias=scalars[1],
            rho=0.5,
            null_weight=1.0,
        )

    def found(run: Callable[[], Tensor]) -> list[Tensor]:
        value = run()
        return [value.detach(), *torch.autograd.grad(value, [*given, *scalars])]

    dense, parts = BlockSizes(sentences=9, volumes=5), BlockSizes(sentences=4, volumes=2)
    for of in (
        lambda blocks: compare_recomputing(arguments(), blocks=blocks).score_TB.square().sum(),
        lambda blocks: one_pass_loss(arguments(), lambda s, m, e, part: s.square().sum() + m.sum(), blocks=blocks)[0],
    ):
        for one, other in zip(found(lambda of=of: of(dense)), found(lambda of=of: of(parts)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_6_one_volume_and_one_sentence_keep_their_axes(studies: StudySet, mode: str) -> None:
    one = make_batch(studies, CONFIG.model_copy(update={"batch_size": 1}), step=0, blocks=(0, 1))
    one = replace(one, sentences=one.sentences[:1], relation_TB=one.relation_TB[:1])
    model = model_of(studies, mode)
    found = scored(model, one, one.patch_weight_BP)
    assert found.score_TB.shape == found.gate_mass_TB.shape == (1, 1)
    assert found.gate_logits_TBP.shape == (1, 1, PATCHES)
    assert np.isfinite(step(model, one)[0])


def test_7_a_crop_of_a_cached_teacher_is_that_slice_of_the_whole(studies: StudySet, tmp_path: Path) -> None:
    grid = tuple(size // edge for size, edge in zip(GRID, PATCH, strict=True))
    channels = torch.from_numpy(window_channels(studies.volume_BZYX[3], WINDOWS))[None]
    whole_PD = small_teacher().encode(channels, layers=(1,)).hidden[1][0].half().numpy()
    head = CacheHead(
        study_ids=("s3",), layers=("1",), grid=grid, width=48, recipe={"weights": "0" * 64}, sources={"s3": "1" * 64}
    )
    with write_cache(tmp_path / "cache.h5", head) as writer:
        writer.put(0, {"1": whole_PD}, affine=np.eye(4), coverage_P=np.ones(PATCHES, np.float32))
    box = (slice(1, 3), slice(0, 2), slice(1, 4))
    patches = np.arange(PATCHES).reshape(grid)[box].ravel()
    found = FeatureCache(tmp_path / "cache.h5", fingerprint=head.fingerprint).read("1", [0], patches)[0]
    np.testing.assert_array_equal(found, whole_PD.reshape(*grid, 48)[box].reshape(-1, 48))


def average_precision(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    order = np.argsort(-score_N, kind="stable")
    hits = positive_N[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_8_planted_lesions_are_found_from_reports_alone(tmp_path: Path) -> None:
    config = TrainConfig(
        head_steps=150,
        steps=0,
        batch_size=16,
        checkpoint_every=1000,
        validate_every=1000,
        optimizer=OptimizerConfig(head_learning_rate=3e-3),
    )
    training, _ = study_set(64, teacher=small_teacher())
    test, lesion = study_set(24, seed=9)
    model = train(small_model(config, training), training, config=config, state=tmp_path, key="phantom").model.eval()
    with torch.no_grad():
        queries = model.encode_text([finding_prompt(finding) for finding in FINDINGS])
        tokens = model.encode_volume(torch.from_numpy(volume_tensor(test, range(24))))
        logits_TBP = model.score(tokens, queries, torch.from_numpy(test.weight_BP)).gate_logits_TBP.numpy()
    found = [average_precision(logits_TBP[t].ravel(), lesion[:, t].ravel()) for t in range(len(FINDINGS))]
    assert np.mean(found) > 0.8, found


def empty_report(batch: Batch) -> Batch:
    return replace(batch, sentences=(), relation_TB=batch.relation_TB[:0])


def one_finding(batch: Batch) -> Batch:
    row = next(row for row, text in enumerate(batch.sentences) if text.startswith("There is"))
    return replace(batch, sentences=batch.sentences[row : row + 1], relation_TB=batch.relation_TB[row : row + 1])


def all_ignored(batch: Batch) -> Batch:
    return replace(batch, relation_TB=torch.full_like(batch.relation_TB, -1))


def constant_volume(batch: Batch) -> Batch:
    assert batch.volume_BCZYX is not None
    return replace(batch, volume_BCZYX=torch.full_like(batch.volume_BCZYX, 0.3))


def overflowing_teacher(batch: Batch) -> Batch:
    loud = {block: (tokens * 1e6).half().float() for block, tokens in batch.teacher.items()}
    assert any(tokens.isinf().any() for tokens in loud.values())
    return replace(batch, teacher=loud)


def overflowing_at_rest(batch: Batch) -> Batch:
    return replace(overflowing_teacher(batch), volume_BCZYX=None)


def batch_of_one(batch: Batch) -> Batch:
    return replace(batch.piece(0, 4), relation_TB=batch.relation_TB[:, :1])


ODD = (
    empty_report,
    one_finding,
    all_ignored,
    constant_volume,
    overflowing_teacher,
    overflowing_at_rest,
    batch_of_one,
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__.replace("_", " "))
def test_no_odd_batch_makes_the_loss_or_a_gradient_nan(
    studies: StudySet, batch: Batch, odd: Callable[[Batch], Batch], mode: str
) -> None:
    total, gradients = step(model_of(studies, mode), odd(batch))
    assert np.isfinite(total)
    assert gradients
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
