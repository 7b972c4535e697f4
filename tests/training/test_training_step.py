"""One step of training: duplicates, silence, and what a batch is made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import AugmentConfig, LossConfig, ModelConfig, SentenceConfig, TrainConfig
from glint.model.pooling import POOLINGS
from glint.training.dataset import StudySet, make_batch, photometric
from glint.training.distributed import ALONE, Ranks
from glint.training.sampler import batch_rows, sentence_draw
from glint.training.step import Batch, training_step, unique_sentences

CONFIG = TrainConfig(
    batch_size=4,
    head_steps=0,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(1,), area_start=0.0),
)


@pytest.fixture(scope="module")
def studies() -> StudySet:
    return study_set(12, teacher=small_teacher())[0]


@pytest.fixture
def batch(studies: StudySet) -> Batch:
    return make_batch(studies, CONFIG, step=0, blocks=(1,))


def loss_of(batch: Batch, studies: StudySet, pooling: str | None = None) -> tuple[float, dict[str, float]]:
    model = small_model(CONFIG, studies, pooling=pooling)
    result = training_step(model, batch, progress=0.5, gram_generator=torch.Generator().manual_seed(0))
    if result.total.requires_grad:
        result.total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    return float(result.total.detach()), result.numbers


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_repeating_the_texts_leaves_the_loss_as_it_is(pooling: str, batch: Batch, studies: StudySet) -> None:
    twice = replace(batch, sentences=batch.sentences * 2, relation_TB=torch.cat([batch.relation_TB, batch.relation_TB]))
    assert loss_of(twice, studies, pooling)[0] == pytest.approx(loss_of(batch, studies, pooling)[0], rel=1e-6)


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("relation", [-1, 0, 1, 2])
def test_one_sided_and_ignored_batches_stay_finite(
    pooling: str, relation: int, batch: Batch, studies: StudySet
) -> None:
    one_sided = replace(batch, relation_TB=torch.full_like(batch.relation_TB, relation))
    total, _ = loss_of(one_sided, studies, pooling)
    assert np.isfinite(total)


def test_a_silent_batch_still_regularizes_the_features(batch: Batch, studies: StudySet) -> None:
    total, numbers = loss_of(replace(batch, sentences=(), relation_TB=batch.relation_TB[:0]), studies)
    assert total == pytest.approx(numbers["dense"])


def test_one_study_without_a_valid_patch_stays_finite(studies: StudySet) -> None:
    one = make_batch(studies, CONFIG.model_copy(update={"batch_size": 1}), step=0, blocks=(1,))
    total, _ = loss_of(replace(one, patch_weight_BP=torch.zeros_like(one.patch_weight_BP)), studies)
    assert np.isfinite(total)


def test_a_constant_volume_stays_finite(batch: Batch, studies: StudySet) -> None:
    assert batch.volume_BCZYX is not None
    constant = replace(batch, volume_BCZYX=torch.zeros_like(batch.volume_BCZYX))
    assert np.isfinite(loss_of(constant, studies)[0])


def test_a_resting_encoder_gives_the_same_scores_from_cached_tokens(batch: Batch, studies: StudySet) -> None:
    resting = make_batch(studies, CONFIG, step=0, blocks=(1,), resting=True)
    assert resting.volume_BCZYX is None
    _, awake = loss_of(batch, studies)
    _, asleep = loss_of(resting, studies)
    assert asleep["contrastive"] == pytest.approx(awake["contrastive"], rel=1e-2)  # the cache holds float16
    assert "dense" not in asleep


def test_every_epoch_visits_every_study_once() -> None:
    visited = np.concatenate([batch_rows(studies=12, batch_size=4, step=step, seed=3) for step in range(6)])
    assert sorted(visited[:12]) == sorted(visited[12:]) == list(range(12))
    assert list(visited[:12]) != list(visited[12:])


def test_a_cohort_smaller_than_the_batch_is_one_batch() -> None:
    assert sorted(batch_rows(studies=3, batch_size=16, step=5, seed=0)) == [0, 1, 2]


def test_a_draw_of_sentences_keeps_their_order_and_follows_the_seed() -> None:
    rows = np.arange(100, 200)
    drawn = sentence_draw(rows, limit=10, step=4, seed=1)
    assert len(drawn) == 10
    assert list(drawn) == sorted(drawn)
    np.testing.assert_array_equal(drawn, sentence_draw(rows, limit=10, step=4, seed=1))


def test_batch_relations_say_what_the_reports_say() -> None:
    studies, lesion = study_set(12)
    batch = make_batch(studies, CONFIG.model_copy(update={"batch_size": 12}), step=0)
    rows = batch_rows(studies=12, batch_size=12, step=0, seed=0)
    for number, finding in enumerate(FINDINGS):
        sentence = f"There is {finding.replace('_', ' ')}."
        relation = batch.relation_TB[batch.sentences.index(sentence)].numpy()
        np.testing.assert_array_equal(relation == 1, lesion[rows, number].any(axis=-1))


def test_prompts_and_denials_enter_only_when_asked() -> None:
    plain = study_set(12, sentences=SentenceConfig(prompts=False, negated=False))[0].queries.texts
    full = study_set(12, sentences=SentenceConfig(prompts=True, negated=True))[0].queries.texts
    assert not [text for text in plain if text.startswith(("There is", "no "))]
    assert [text for text in full if text.startswith("There is no")]
    assert set(plain) < set(full)


def test_photometric_change_keeps_the_range_and_spares_the_teacher(batch: Batch, studies: StudySet) -> None:
    augment = AugmentConfig(gain=0.2, offset=0.1, noise=0.05)
    changed = make_batch(studies, CONFIG.model_copy(update={"augment": augment}), step=0, blocks=(1,))
    assert batch.volume_BCZYX is not None
    assert changed.volume_BCZYX is not None
    assert not torch.equal(batch.volume_BCZYX, changed.volume_BCZYX)
    assert 0 <= changed.volume_BCZYX.min() <= changed.volume_BCZYX.max() <= 1
    torch.testing.assert_close(batch.teacher[1], changed.teacher[1])
    volume = batch.volume_BCZYX.numpy()
    np.testing.assert_array_equal(photometric(volume, AugmentConfig(), np.random.default_rng(0)), volume)


LOCAL = CONFIG.model_copy(
    update={"loss": CONFIG.loss.model_copy(update={"contrastive": 0.0, "sigmoid": 1.0, "evidence": 0.5})}
)


@pytest.mark.parametrize(("base", "mode"), [(CONFIG, "recompute"), (LOCAL, "recompute"), (LOCAL, "one_pass")])
def test_every_way_to_form_the_gates_gradients_takes_the_same_step(
    base: TrainConfig, mode: str, batch: Batch, studies: StudySet
) -> None:
    results = {}
    for chosen in ("reference", mode):
        config = base.model_copy(update={"model": base.model.model_copy(update={"gate": chosen})})
        model = small_model(config, studies)
        assert model.gate_mode(3, batch.patch_weight_BP) == chosen
        result = training_step(model, batch, progress=0.5, gram_generator=torch.Generator().manual_seed(0))
        result.total.backward()
        grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        results[chosen] = (result.numbers, grads)
    (numbers, grads), (expected, expected_grads) = results[mode], results["reference"]
    assert numbers == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert set(grads) == set(expected_grads)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_small_batch_holds_its_gates_and_a_large_one_opens_them_again(studies: StudySet) -> None:
    model = small_model(CONFIG, studies)
    assert model.gate_mode(10, torch.ones(4, 36)) == "reference"
    assert model.gate_mode(1000, torch.ones(64, 1024)) == "recompute"
    assert small_model(LOCAL, studies).gate_mode(10, torch.ones(4, 36)) == "one_pass"
    assert small_model(LOCAL, studies, pooling="mean").gate_mode(10, torch.ones(4, 36)) == "reference"


def test_one_pass_with_a_loss_over_all_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="one_pass"):
        TrainConfig(model=ModelConfig(gate="one_pass"))


def test_two_halves_of_a_batch_have_the_mean_gradient_of_the_whole_in_one_pass(
    batch: Batch, studies: StudySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "gather", lambda self, local_TB: local_TB.repeat(1, self.size))  # only its shape is read
    monkeypatch.setattr(
        Ranks, "part", lambda self, size: slice(self.rank * size // self.size, (self.rank + 1) * size // self.size)
    )
    found = []
    for ranks in (ALONE, Ranks(rank=0, size=2), Ranks(rank=1, size=2)):
        own = slice(None) if ranks is ALONE else ranks.part(4)
        half = replace(
            batch, volume_BCZYX=batch.volume_BCZYX[own], patch_weight_BP=batch.patch_weight_BP[own], teacher={}
        )
        model = small_model(LOCAL, studies)
        training_step(model, half, progress=0.5, gram_generator=torch.Generator(), ranks=ranks).total.backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    whole, *halves = found
    for name, grad in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, grad, rtol=1e-3, atol=1e-5, msg=name)


def test_without_classes_a_sentence_belongs_to_its_own_study_alone(studies: StudySet) -> None:
    apart = CONFIG.model_copy(update={"batch_size": 12, "sentences": SentenceConfig(classes=False)})
    batch = make_batch(studies, apart, step=0)
    assert (batch.relation_TB == 1).sum(dim=1).tolist() == [1] * len(batch.sentences)
    assert set(batch.relation_TB.unique().tolist()) == {0, 1}
    assert len(unique_sentences(batch.sentences, batch.relation_TB)) == len(batch.sentences) > len(set(batch.sentences))
