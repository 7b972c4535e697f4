"""What a training may do besides taking every step with every weight: averages, early stop, low rank, balance, precision."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from glint.core.errors import ConfigError
from glint.model.low_rank import LowRankLinear, merge_low_rank
from glint.training import loop
from glint.training.averages import EarlyStop, MovingAverage
from glint.training.dataset import StudySet
from glint.training.loop import Run, train
from glint.training.model_card import stated_counts
from glint.training.optimizer import make_optimizer, schedule_factor
from glint.training.sampler import batch_rows, epoch_order, repeats_of
from glint.training.step import Batch, training_step
from glint.training.validation import GatePicture, Validation, zero_shot

SHORT = TrainConfig(
    head_steps=2,
    steps=4,
    batch_size=4,
    checkpoint_every=2,
    validate_every=2,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(1,)),
    optimizer=OptimizerConfig(warmup_steps=1),
)


@pytest.fixture(scope="module")
def training() -> StudySet:
    return study_set(12, teacher=small_teacher())[0]


@pytest.fixture(scope="module")
def validation() -> StudySet:
    return study_set(8, seed=1)[0]


def run(training: StudySet, state: Path, validation: StudySet | None = None, **changes: object) -> Run:
    config = SHORT.model_copy(update=changes)
    return train(
        small_model(config, training),
        training,
        config=config,
        state=state,
        key="k",
        validation=validation,
        findings=tuple(FINDINGS),
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def stopped_in_the_middle(monkeypatch: pytest.MonkeyPatch, at: int, work: object) -> None:
    """Run `work` and kill it in step `at`."""
    real, calls = loop.backward_step, iter(range(100))

    def dying(*args: object, **kwargs: object) -> object:
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward_step", dying)
        with pytest.raises(KeyboardInterrupt):
            work()  # type: ignore[operator]


def test_a_moving_average_is_the_weighted_mean_of_all_weights() -> None:
    """Oracle: the sum written out."""
    model = torch.nn.Linear(2, 1, bias=False)
    average = MovingAverage(model, decay=0.5)
    seen = [model.weight.detach().clone()]
    for step in range(1, 4):
        with torch.no_grad():
            model.weight += step
        seen.append(model.weight.detach().clone())
        average.update(model, step)
    shares = [1.0]
    for step in range(1, 4):
        decay = min(0.5, (1 + step) / (10 + step))
        shares = [decay * share for share in shares] + [1 - decay]
    assert torch.allclose(average.weights["weight"], sum(share * w for share, w in zip(shares, seen, strict=True)))
    with average.applied(model):
        assert torch.equal(model.weight, average.weights["weight"])
    assert torch.equal(model.weight, seen[-1])


@pytest.mark.parametrize("changes", [{"ema_decay": 0.9}, {"patience": 2, "ema_decay": 0.5}, {"balance_below": 0.5}])
def test_options_are_resumed_to_the_same_weights(
    training: StudySet,
    validation: StudySet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
) -> None:
    undisturbed = run(training, tmp_path / "one", validation, **changes)
    stopped_in_the_middle(monkeypatch, 3, lambda: run(training, tmp_path / "two", validation, **changes))
    again = run(training, tmp_path / "two", validation, **changes)
    assert again.curves == undisturbed.curves
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(undisturbed).items())


def test_the_averaged_weights_are_kept_and_the_step_goes_on_with_its_own(training: StudySet, tmp_path: Path) -> None:
    plain, averaged = run(training, tmp_path / "one"), run(training, tmp_path / "two", ema_decay=0.9)
    assert [row["loss"] for row in plain.curves] == [row["loss"] for row in averaged.curves]
    assert not torch.equal(plain.model.to_value.weight, averaged.model.to_value.weight)
    assert torch.equal(averaged.model.to_value.weight, averaged.average.weights["to_value.weight"])


def test_training_ends_early_with_the_weights_of_the_best_validation(
    training: StudySet, validation: StudySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, seen = iter([0.6, 0.8, 0.7, 0.8, 0.9]), {}

    def judged(run: Run, *_args: object, **_kwargs: object) -> dict[str, float]:
        seen[run.step] = weights(run)
        return {"auroc_macro": next(scores)}

    monkeypatch.setattr(loop, "validate", judged)
    finished = run(training, tmp_path, validation, patience=2, validate_every=1)
    assert list(seen) == [1, 2, 3, 4], "0.8 again is no improvement"
    assert all(torch.equal(tensor, seen[2][name]) for name, tensor in weights(finished).items())
    again = run(training, tmp_path, validation, patience=2, validate_every=1)
    assert again.step == 4 and torch.equal(again.model.to_value.weight, seen[2]["to_value.weight"])


def test_early_stopping_without_validation_studies_is_refused(training: StudySet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.patience"):
        run(training, tmp_path, patience=1)
    assert EarlyStop(patience=1).over is False


def test_a_low_rank_map_starts_as_the_map_it_updates_and_merges_to_one_that_computes_the_same() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(7, 5)
    low = LowRankLinear(linear, rank=2, alpha=6.0)
    inputs = torch.randn(3, 7)
    assert torch.equal(low(inputs), linear(inputs))
    torch.nn.init.normal_(low.low_rank_up)
    expected = inputs @ (linear.weight + 3.0 * low.low_rank_up @ low.low_rank_down).T + linear.bias
    assert torch.allclose(low(inputs), expected, atol=1e-5)
    holder = torch.nn.Sequential(low)
    merge_low_rank(holder)
    assert type(holder[0]) is torch.nn.Linear and torch.allclose(holder(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("adaptation", ["lora", "frozen"])
def test_a_resting_encoder_keeps_its_weights_and_what_is_beside_it_learns(
    training: StudySet, tmp_path: Path, adaptation: str
) -> None:
    model = SHORT.model.model_copy(update={"adaptation": adaptation, "adapter_blocks": 1, "lora_rank": 4})
    config = SHORT.model_copy(update={"model": model})
    before = {name: tensor.clone() for name, tensor in small_model(config, training).state_dict().items()}
    after = weights(run(training, tmp_path, model=model))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    inside = {name for name in changed if name.startswith("student.encoder.")}
    assert all("low_rank" in name for name in inside)
    assert bool(inside) == (adaptation == "lora")
    assert any(name.startswith("student.adapter.") for name in changed)
    merged = run(training, tmp_path, model=model).model
    merge_low_rank(merged)
    assert merged.state_dict().keys() == small_model(SHORT.model_copy(
        update={"model": model.model_copy(update={"adaptation": "full"})}), training).state_dict().keys()  # fmt: skip


def test_low_rank_updates_learn_at_their_own_rate(training: StudySet) -> None:
    model = SHORT.model.model_copy(update={"adaptation": "lora", "lora_rank": 4})
    optimizer = make_optimizer(
        small_model(SHORT.model_copy(update={"model": model}), training), OptimizerConfig(lora_learning_rate=3e-4)
    )
    rates = {name: group["base_lr"] for group in optimizer.param_groups for name in group["names"]}
    assert {rate for name, rate in rates.items() if "low_rank" in name} == {3e-4}
    assert not [name for name in rates if name.startswith("student.encoder.") and "low_rank" not in name]


def test_a_rare_finding_comes_more_often_and_every_study_still_comes() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((200, 3)) < np.array([0.5, 0.1, 0.02])
    repeats = repeats_of(present, below=0.2)
    share = present.mean(axis=0)
    rarest = np.array([min((share[f] for f in np.flatnonzero(row)), default=1.0) for row in present])
    assert np.allclose(repeats, np.maximum(1, np.sqrt(0.2 / rarest)))
    orders = [epoch_order(repeats, epoch=epoch, seed=1) for epoch in range(300)]
    counts = np.array([np.bincount(order, minlength=200) for order in orders])
    assert (counts >= 1).all() and (counts <= np.ceil(repeats * 1.01)).all()
    assert np.allclose(counts.mean(axis=0), repeats, atol=0.15)
    assert not np.array_equal(orders[0], orders[1])
    often = int(repeats.argmax())
    gaps = np.diff(np.flatnonzero(orders[0] == often))
    assert (gaps > len(orders[0]) / counts[0, often] / 2).all(), "copies of one study are spread over the epoch"


def test_batches_of_a_balanced_epoch_are_cut_from_its_order() -> None:
    repeats = np.array([1.0, 2.5, 1.0, 1.0, 2.5])
    batches = [batch_rows(studies=5, batch_size=4, step=step, seed=2, repeats_B=repeats) for step in (0, 1, 2)]
    assert np.array_equal(np.concatenate(batches[:2]), epoch_order(repeats, epoch=0, seed=2))
    assert np.array_equal(batches[2], epoch_order(repeats, epoch=1, seed=2)[:4])


@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", [0.5, 1, 1, 0.55, 0.1]), ("linear", [0.5, 1, 1, 0.55, 0.1]), ("constant", [0.5, 1, 1, 1, 1])]
)  # fmt: skip
def test_rates_warm_up_and_fall(schedule: str, expected: list[float]) -> None:
    found = [schedule_factor(schedule, step, steps=12, warmup=2, final=0.1) for step in (0, 1, 2, 7, 12)]
    assert found == pytest.approx(expected)


def a_step(training: StudySet, **changes: object) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    from glint.training.dataset import make_batch

    config = SHORT.model_copy(update=changes)
    model = small_model(config, training)
    if config.activation_checkpointing:
        loop.recompute_blocks(model.student)
    batch: Batch = make_batch(training, config, step=0, blocks=(1,))
    result = training_step(model, batch, progress=0.5, gram_generator=torch.Generator().manual_seed(0))
    result.total.backward()
    return {n: w.grad for n, w in model.named_parameters() if w.grad is not None}, result.numbers


def test_recomputed_activations_give_the_same_gradients(training: StudySet) -> None:
    (expected, told), (found, said) = a_step(training), a_step(training, activation_checkpointing=True)
    assert said == told
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_bfloat16_stays_near_float32_and_scores_are_float32(training: StudySet, tmp_path: Path) -> None:
    (expected, told), (found, said) = a_step(training), a_step(training, precision="bfloat16")
    assert said["loss"] == pytest.approx(told["loss"], rel=0.05)
    assert said["loss"] != told["loss"]
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    one, other = (torch.cat([g[name].flatten() for name in expected]) for g in (expected, found))
    assert torch.cosine_similarity(one, other, dim=0) > 0.97
    assert np.isfinite([row["loss"] for row in run(training, tmp_path, precision="bfloat16").curves]).all()


def test_every_validation_draws_a_stated_and_an_unstated_study_of_each_finding(
    training: StudySet, validation: StudySet, tmp_path: Path
) -> None:
    finished = run(training, tmp_path, validation, pictured_findings=2)
    names = sorted(path.name for path in (tmp_path / "gate_maps").glob("*.png"))
    assert names == ["step-000002.png", "step-000004.png", "step-000006.png"]
    page = (tmp_path / "gate_maps" / "index.html").read_text()
    assert re.findall(r"step (\d+)", page) == ["6", "4", "2"] and "pleural_effusion" in page
    seen = zero_shot(finished.model, validation, tuple(FINDINGS), pictured=2)
    counts = stated_counts(validation, tuple(FINDINGS))
    most = sorted(FINDINGS, key=lambda finding: -counts[finding][0])[:2]
    assert [(p.finding, p.stated) for p in seen.pictures] == [(name, said) for name in most for said in (True, False)]
    run(training, tmp_path / "none", validation, pictured_findings=0)
    assert not (tmp_path / "none" / "gate_maps").exists()


def test_red_lies_where_the_gate_is_open(tmp_path: Path) -> None:
    """One open patch of an asymmetric grid, in the slice that is shown."""
    from glint.training.gate_maps import CAPTION, PANEL, gate_map_png

    gate = np.zeros((2, 3, 4), np.float32)
    gate[1, 2, 0] = 1.0
    picture = GatePicture(finding="mass", stated=True, image_ZYX=np.full((4, 6, 8), 0.5, np.float32), gate_zyx=gate)
    gate_map_png(Validation(auroc={"mass": 0.5}, pictures=[picture]), tmp_path / "one.png")
    shown = np.asarray(Image.open(tmp_path / "one.png")).astype(int)[CAPTION : CAPTION + PANEL]
    red = (shown[..., 0] - shown[..., 2]) > 50
    rows, columns = np.nonzero(red)
    # 3 x 4 patches in 144 x 192 pixels; y 2 is the most anterior and x 0 the leftmost patch of the patient.
    assert (rows.min(), rows.max()) == (0, 47) and (columns.min(), columns.max()) == (144, 191)
    film = GatePicture(finding="mass", stated=True, image_ZYX=np.full((1, 6, 8), 0.5, np.float32), gate_zyx=gate[1:])
    gate_map_png(Validation(auroc={"mass": 0.5}, pictures=[film]), tmp_path / "film.png")
    shown = np.asarray(Image.open(tmp_path / "film.png")).astype(int)[CAPTION : CAPTION + PANEL]
    rows, columns = np.nonzero((shown[..., 0] - shown[..., 2]) > 50)
    assert (rows.min(), rows.max()) == (96, 143) and (columns.min(), columns.max()) == (0, 47)
