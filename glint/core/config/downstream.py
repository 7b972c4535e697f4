"""Configuration of the downstream tasks of stage 10: probes, a segmentation head, report generation."""

from typing import Literal

from pydantic import Field

from glint.core.config.base import StageConfig


class ProbeTaskConfig(StageConfig):
    """Linear and attentive probe on frozen tokens, for labels of studies."""

    train_labels: Literal["reports", "truth"] = Field(
        default="reports", description="what the probes learn from: findings that stage 05 read, or masks"
    )
    test_labels: Literal["reports", "truth"] = Field(
        default="truth", description="what they are measured against: masks, or findings that stage 05 read"
    )
    findings: tuple[str, ...] = Field(
        default=(),
        description="registry names; none: those of the truth, or without truth all that reports often state",
    )
    least_stated: int = Field(
        default=20, ge=1, description="training reports that must state a finding for it to be asked, without truth"
    )
    fractions: tuple[float, ...] = Field(
        default=(0.01, 0.1, 1.0),
        min_length=1,
        description="shares of the training patients; each holds the smaller ones",
    )
    shots: tuple[int, ...] = Field(
        default=(1, 5, 10), description="studies with and as many without a finding, each of another patient"
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="draws of the training studies, and starts of the attentive probe"
    )
    pooling: Literal["mean", "mean_max"] = Field(
        default="mean_max",
        description="what the linear probe sees of a study: the mean of its tokens, or the maximum of each channel beside it",
    )
    strength: float = Field(
        default=0.01,
        gt=0,
        description="inverse weight of the squared coefficients against the summed loss (C of common libraries); fixed, as a "
        "choice by validation labels would add labels to the 1 % setting",
    )
    iterations: int = Field(default=100, ge=1, description="L-BFGS iterations of the linear probe at most")
    heads: int = Field(default=2, ge=1, description="attention maps per finding of the attentive probe")
    steps: int = Field(default=200, ge=1, description="steps of the attentive probe")
    batch_size: int = Field(default=32, ge=1, description="studies per step of the attentive probe")
    learning_rate: float = Field(default=0.003, gt=0, description="AdamW, attentive probe, falling as a cosine to 0")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW, attentive probe")


class DownstreamConfig(StageConfig):
    """Tasks that learn on top of a trained encoder."""

    tokens: Literal["student", "teacher"] = Field(
        default="student", description="frozen tokens of the probes: the checkpoint's encoder, or stage 08's cache"
    )
    probe: ProbeTaskConfig = Field(default=ProbeTaskConfig(), description="labels of studies")
