"""What each process of `torchrun … shared_run.py FOLDER POOLING` does: train the tiny cohort, write down what it ended with.

With `--sent NAME --during STEP` the second process sends itself that signal.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import AugmentConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from glint.core.errors import GlintError
from glint.training import loop
from glint.training.distributed import ALONE, Ranks, ranks_of_this_job
from glint.training.loop import Run, train

CONFIG = TrainConfig(
    head_steps=8,
    steps=12,
    batch_size=4,
    checkpoint_every=4,
    validate_every=10,
    precision="float64",
    pictured_findings=0,
    model=ModelConfig(value_width=16, gate_width=8),
    # Every term on, and a scale that learns: each takes another way through the gathering.
    loss=LossConfig(dense_blocks=(0, 1), sigmoid=1.0, area=0.5, area_start=0.0),
    optimizer=OptimizerConfig(warmup_steps=2),
    augment=AugmentConfig(gain=0.1, offset=0.1, noise=0.05),
)


def shared_run(state: Path, *, pooling: str, ranks: Ranks = ALONE, at_once: int | None = None) -> Run:
    config = CONFIG.model_copy(update={"micro_batch_size": at_once})
    training, _ = study_set(12, teacher=small_teacher())
    validation, _ = study_set(8, seed=1)
    return train(
        small_model(config, training, pooling=pooling),
        training,
        config=config,
        state=state,
        key="k",
        validation=validation,
        findings=tuple(FINDINGS),
        ranks=ranks,
    )


def signal_during(step: int, number: signal.Signals) -> None:
    """Have this process told to leave, or killed, while it takes `step`."""
    real = loop.optimise

    def interrupted(run: Run, *args: object, **kwargs: object) -> object:
        if run.step == step:
            os.kill(os.getpid(), number)
        return real(run, *args, **kwargs)  # type: ignore[arg-type]

    loop.optimise = interrupted  # type: ignore[assignment]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("pooling", choices=("gate", "mean"))
    parser.add_argument("--sent", default="SIGUSR1")
    parser.add_argument("--during", type=int)
    parser.add_argument("--at-once", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    if given.during is not None and rank == "1":
        signal_during(given.during, signal.Signals[given.sent])
    try:
        with ranks_of_this_job() as these:
            finished = shared_run(given.folder / "state", pooling=given.pooling, ranks=these, at_once=given.at_once)
    except GlintError as error:
        sys.exit(f"glint: {error}")
    save_file(finished.model.state_dict(), given.folder / f"{rank}.safetensors")
    (given.folder / f"{rank}.json").write_text(json.dumps(finished.curves))
