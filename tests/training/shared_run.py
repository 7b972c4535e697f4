"""What each process of `torchrun … shared_run.py FOLDER ARM [STEP]` does: train the tiny cohort, write down what it ended with.

The second process sends itself SIGUSR1 during STEP.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from synthetic import FINDINGS, small_model, small_teacher, study_set

from glint.core.config.train import AugmentConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from glint.training import loop
from glint.training.distributed import ALONE, Ranks, ranks_of_this_job
from glint.training.loop import Run, train

CONFIG = TrainConfig(
    head_steps=3,
    steps=3,
    batch_size=4,
    checkpoint_every=2,
    validate_every=3,
    model=ModelConfig(value_width=16, gate_width=8),
    # Every term on, and a scale that learns: each takes another way through the gathering.
    loss=LossConfig(dense_blocks=(0, 1), sigmoid=1.0, area=0.5, area_start=0.0),
    optimizer=OptimizerConfig(warmup_steps=2),
    augment=AugmentConfig(gain=0.1, offset=0.1, noise=0.05),
)


def shared_run(state: Path, *, pooling: str, ranks: Ranks = ALONE) -> Run:
    training, _ = study_set(12, teacher=small_teacher())
    validation, _ = study_set(8, seed=1)
    return train(
        small_model(CONFIG, training, pooling=pooling),
        training,
        config=CONFIG,
        state=state,
        key="k",
        validation=validation,
        findings=tuple(FINDINGS),
        ranks=ranks,
    )


def signal_during(step: int) -> None:
    """Have this process told to leave while it takes `step`."""
    real = loop.optimise

    def interrupted(run: Run, *args: object, **kwargs: object) -> object:
        if run.step == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(run, *args, **kwargs)  # type: ignore[arg-type]

    loop.optimise = interrupted  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, chosen = Path(sys.argv[1]), sys.argv[2]
    rank = os.environ["RANK"]
    if len(sys.argv) > 3 and rank == "1":
        signal_during(int(sys.argv[3]))
    with ranks_of_this_job() as these:
        finished = shared_run(folder / "state", pooling=chosen, ranks=these)
        save_file(finished.model.state_dict(), folder / f"{rank}.safetensors")
        (folder / f"{rank}.json").write_text(json.dumps(finished.curves))
