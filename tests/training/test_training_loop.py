"""The loop: learns, survives being killed, repeats itself."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from glint.training import loop
from glint.training.curves import curves_csv, curves_png
from glint.training.loop import REQUEUE_EXIT_CODE, Run, train
from glint.training.optimizer import base_learning_rate, make_optimizer, rate_factors

SHORT = TrainConfig(
    head_steps=3,
    steps=4,
    batch_size=4,
    checkpoint_every=2,
    validate_every=3,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(1,)),
    optimizer=OptimizerConfig(warmup_steps=2),
)


def short_run(state: Path, config: TrainConfig = SHORT, key: str = "k") -> Run:
    training, _ = study_set(12, teacher=small_teacher())
    validation, _ = study_set(8, seed=1)
    return train(
        small_model(config, training),
        training,
        config=config,
        state=state,
        key=key,
        validation=validation,
        findings=tuple(FINDINGS),
    )


def assert_same(one: Run, other: Run) -> None:
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert one.curves == other.curves


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return short_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("killed_at", [1, 5])
def test_a_killed_run_ends_in_the_same_weights(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    real = loop.backward_step
    calls = iter(range(100))

    def dying(*args: object, **kwargs: object) -> object:
        if next(calls) == killed_at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward_step", dying)
        with pytest.raises(KeyboardInterrupt):
            short_run(tmp_path)
    torch.rand(3)  # a global generator that stands elsewhere must not matter
    assert_same(undisturbed, short_run(tmp_path))


def test_sigterm_saves_and_asks_to_be_requeued(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.backward_step
    calls = iter(range(100))

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            short_run(tmp_path)
    assert stop.value.code == REQUEUE_EXIT_CODE
    assert_same(undisturbed, short_run(tmp_path))


def test_a_state_of_another_configuration_is_not_resumed(undisturbed: Run, tmp_path: Path) -> None:
    short_run(tmp_path, key="other", config=SHORT.model_copy(update={"seed": 5}))
    assert_same(undisturbed, short_run(tmp_path))


def test_curves_hold_every_step_and_can_be_drawn(undisturbed: Run) -> None:
    lines = curves_csv(undisturbed.curves).decode().splitlines()
    assert len(lines) == 1 + SHORT.head_steps + SHORT.steps
    for name in ("loss", "contrastive", "dense", "gate_density_positive", "teacher_cosine_1", "auroc_macro"):
        assert name in lines[0].split(",")
    assert curves_png(undisturbed.curves).startswith(b"\x89PNG")
    json.dumps(undisturbed.curves, allow_nan=False)


def test_a_drifting_block_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    warned: set[str] = set()
    for _ in range(2):
        loop.warn_of_drift({"teacher_cosine_3": 0.5, "teacher_cosine_1": 0.9}, limit=0.8, warned=warned)
    assert capsys.readouterr().err.count("block 3") == 1


def test_learning_rates_fall_with_depth_and_norms_do_not_decay(undisturbed: Run) -> None:
    config = OptimizerConfig(
        encoder_learning_rate=1e-4, head_learning_rate=1e-3, scalar_learning_rate=0.1, layer_decay=0.5
    )
    names = [name for name, _ in undisturbed.model.named_parameters()]
    rates = {name: base_learning_rate(name, depth=2, config=config) for name in names}
    assert rates["student.encoder.blocks.1.attention.qkv.weight"] == pytest.approx(1e-4)
    assert rates["student.encoder.blocks.0.attention.qkv.weight"] == pytest.approx(5e-5)
    assert rates["student.encoder.patch_embedding.project.weight"] == pytest.approx(2.5e-5)
    assert rates["to_value.weight"] == pytest.approx(1e-3)
    assert rates["gate.bias"] == pytest.approx(0.1)
    optimizer = make_optimizer(undisturbed.model, config)
    decayed = {name for group in optimizer.param_groups if group["weight_decay"] > 0 for name in group["names"]}
    assert "to_value.weight" in decayed
    assert not [name for name in decayed if "norm" in name or name.endswith(".bias") or name == "null_D"]


@pytest.mark.parametrize(
    "changes", [{"optimizer": OptimizerConfig(encoder_learning_rate=0.0), "steps": 2}, {"head_steps": 5, "steps": 0}]
)
def test_an_encoder_at_rest_keeps_the_teachers_weights(tmp_path: Path, changes: dict[str, object]) -> None:
    run = short_run(tmp_path, SHORT.model_copy(update=changes))
    for name, tensor in small_teacher().encoder.state_dict().items():
        assert torch.equal(run.model.student.encoder.state_dict()[name], tensor), name


def test_an_encoder_that_joins_in_learns(undisturbed: Run) -> None:
    before = small_teacher().encoder.blocks[0].attention.qkv.weight
    after = undisturbed.model.student.encoder.blocks[0].attention.qkv.weight
    assert not torch.equal(before, after)


def test_rates_warm_up_and_fall_once_at_rest_and_once_together() -> None:
    config = TrainConfig(
        head_steps=100,
        steps=50,
        optimizer=OptimizerConfig(warmup_steps=10, final_learning_rate=0.1, joint_head_share=0.5),
    )
    encoder, heads = zip(*(rate_factors(step, config) for step in range(150)), strict=True)
    assert set(encoder[:100]) == {0.0}
    assert heads[0] == pytest.approx(0.1)
    assert max(heads[:100]) == heads[10] == pytest.approx(1.0)
    assert heads[10:100] == tuple(sorted(heads[10:100], reverse=True))
    assert heads[99] == pytest.approx(0.1, abs=0.01)
    assert max(encoder) == encoder[110] == pytest.approx(1.0)
    assert heads[110] == pytest.approx(0.5)
