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


class SegmentTaskConfig(StageConfig):
    """A supervised decoder on patch tokens, first with the encoder at rest, then with it in training."""

    decoder_widths: tuple[int, ...] = Field(
        default=(32, 16),
        min_length=1,
        description="channels of the decoder's stages; each doubles the patch grid along every axis until it is the voxels'",
    )
    frozen_steps: int = Field(default=200, ge=1, description="steps of the decoder alone, on frozen tokens")
    finetuned_steps: int = Field(
        default=40,
        ge=0,
        description="steps of decoder and encoder together, from where the frozen one ended; 0 leaves it out",
    )
    batch_size: int = Field(default=8, ge=1, description="studies per step")
    learning_rate: float = Field(default=0.002, gt=0, description="AdamW, decoder, falling as a cosine to 0")
    encoder_learning_rate: float = Field(default=0.00005, gt=0, description="AdamW, encoder")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW")
    save_every: int = Field(default=50, ge=1, description="steps between two states that a killed job resumes from")


class ReportTaskConfig(StageConfig):
    """Reports written by a causal language model that is shown the patches each prompt's gate is open at."""

    language_model: str | None = Field(
        default=None,
        description="hub id or folder of a causal language model; none: a tiny one, made and trained here on training reports",
    )
    train: Literal["projector", "low_rank", "all"] = Field(
        default="projector",
        description="what learns beside the projector: nothing, low-rank updates of the language model, all of it; a tiny one is "
        "always trained whole",
    )
    rank: int = Field(default=8, ge=1, description="rank of the low-rank updates")
    sections: tuple[str, ...] = Field(
        default=("findings", "findings_impression"),
        min_length=1,
        description="sections that are written, the first that a report has",
    )
    findings: tuple[str, ...] = Field(
        default=(),
        description="registry names whose prompts open the gate; none: all of the checkpoint's label prompts",
    )
    steps: int = Field(default=500, ge=1, description="training steps")
    batch_size: int = Field(default=16, ge=1, description="reports per step")
    learning_rate: float = Field(
        default=0.002, gt=0, description="AdamW, projector and tiny language model, a cosine to 0"
    )
    language_learning_rate: float = Field(
        default=0.0002, gt=0, description="AdamW, a given language model or its updates"
    )
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW")
    save_every: int = Field(default=100, ge=1, description="steps between two states that a killed job resumes from")
    max_tokens: int = Field(default=200, ge=8, description="tokens of a report, read and written")
    tiny_vocabulary: int = Field(default=700, ge=300, description="byte-pair tokens of the tiny language model")
    tiny_width: int = Field(default=128, ge=16, description="hidden width of the tiny language model; two layers")
    extra_metrics: tuple[Literal["radgraph", "green"], ...] = Field(
        default=(), description="measures that need a package and a model of their own: docs/downstream.md"
    )


class DownstreamConfig(StageConfig):
    """Tasks that learn on top of a trained encoder."""

    tokens: Literal["student", "teacher"] = Field(
        default="student", description="frozen tokens of the probes: the checkpoint's encoder, or stage 08's cache"
    )
    probe: ProbeTaskConfig = Field(default=ProbeTaskConfig(), description="labels of studies")
    segment: SegmentTaskConfig = Field(default=SegmentTaskConfig(), description="supervised segmentation head")
    report: ReportTaskConfig = Field(default=ReportTaskConfig(), description="report generation")
