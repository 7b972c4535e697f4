"""Experiments: arms of the comparison, each a claim and the training values that differ. `config/experiments/<name>.yaml`."""

import re
from typing import Any, Literal

from pydantic import Field

from glint.core.config.base import StageConfig

METRICS = (
    "auroc",
    "average_precision",
    "dice_fixed",
    "pointing",
    "false_positive_images",
    "false_positive_images_withdrawn",
    "teacher_cosine",
)
"""What the ablation table holds, in its order."""
RUN = re.compile(r"(?P<experiment>[a-z][a-z0-9_]*?)(?:-s(?P<seed>\d+))?")


class Experiment(StageConfig):
    """One file of `config/experiments`."""

    claim: str = Field(min_length=1, description="one sentence that the numbers show true or false")
    kind: Literal["method", "baseline", "ablation"] = Field(default="ablation", description="what it is to the method")
    metrics: tuple[Literal[METRICS], ...] = Field(  # type: ignore[valid-type]
        default=(), description="the claim holds where GLINT is better in every one of them, its interval beyond 0"
    )
    train: dict[str, Any] = Field(default={}, description="values laid over the section `train` of the modality")


class AblationConfig(StageConfig):
    """The comparison of all experiments, `snakemake ablate_ct`. Its runs may be shorter than the training that is reported."""

    experiments: tuple[str, ...] = Field(
        default=(), description="files of config/experiments by name, without ending; empty: all of them"
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="train.seed of each run")
    head_steps: int | None = Field(default=None, ge=0, description="in place of train.head_steps; null: as it is")
    steps: int | None = Field(default=None, ge=0, description="in place of train.steps; null: as it is")
    encoder_learning_rate: float | None = Field(
        default=None,
        ge=0,
        description="in place of train.optimizer's; null: as it is. A few gentle steps leave the encoder where it was, and what "
        "protects it can't be told apart",
    )


def run_of(name: str) -> tuple[str, int | None]:
    """(experiment, seed) of a run's name: `no_null-s1` is ("no_null", 1), `no_null` is ("no_null", None)."""
    found = RUN.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} names no run; an experiment, or experiment-s<seed>")
    return found["experiment"], None if found["seed"] is None else int(found["seed"])
