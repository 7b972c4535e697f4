"""Configuration of stage 06: how patients are divided."""

from pydantic import Field, model_validator

from glint.core.config.base import StageConfig


class SplitConfig(StageConfig):
    """Seed and shares, which must add up to one, and what a published division says."""

    seed: int = Field(default=0, ge=0, description="none; enters each hash, another seed is another division")
    train: float = Field(default=0.7, gt=0, le=1, description="share of patients; most, learning lacks data first")
    validation: float = Field(default=0.1, ge=0, lt=1, description="share of patients; enough to choose a checkpoint")
    official: str | None = Field(
        default=None,
        description="path; CSV below restricted/ with the original patient ids and the split each was published in; null: by hash",
    )
    official_patient_column: str = Field(default="subject_id", description="its column with the Patient ID")
    official_split_column: str = Field(
        default="split", description="its column with train, validate or validation, test; a patient has one"
    )
    test: float = Field(default=0.2, ge=0, lt=1, description="share of patients; enough for an interval per finding")

    assigned: str = Field(
        default="",
        description="CSV with columns study_id (pseudonym) and split (train, validation, test, excluded), such as `glint truth-table` "
        "writes from a published division; a patient's other studies follow; empty: the shares decide alone",
    )

    @model_validator(mode="after")
    def _whole(self) -> "SplitConfig":
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError(f"train + validation + test = {self.train + self.validation + self.test:g}, must be 1")
        return self
