"""Settings of stage 00, the synthetic hospital."""

from __future__ import annotations

from pydantic import Field, model_validator

from glint.core.config.base import StageConfig


class FilmDemoConfig(StageConfig):
    """The chest X-rays of the same patients."""

    studies: int = Field(
        default=400, ge=1, description="film studies; each is a frontal film, some have a lateral one as well"
    )
    portable_fraction: float = Field(
        default=0.3, ge=0.0, le=1.0, description="fraction taken from the front at the bedside; the others stand"
    )
    lateral_fraction: float = Field(
        default=0.25, ge=0.0, le=1.0, description="fraction of standing patients with a lateral film beside the frontal"
    )


class DemoConfig(StageConfig):
    """What the synthetic hospital makes: how many studies, how ill, how messy."""

    seed: int = Field(default=20, ge=0, description="none; every byte of the demo follows from it")
    studies: int = Field(
        default=240, ge=1, description="studies; 240 give each finding some 40 positives within 90 s on two cores"
    )
    normal_fraction: float = Field(
        default=0.25, ge=0.0, le=1.0, description="fraction of studies without a finding; exact in every 40 studies"
    )
    repeat_fraction: float = Field(
        default=0.12,
        ge=0.0,
        le=0.5,
        description="fraction of studies that are second visits, so that splits must go by patient",
    )
    scout_fraction: float = Field(default=0.3, ge=0.0, le=1.0, description="fraction; studies with a localizer series")
    dose_report_fraction: float = Field(
        default=0.25, ge=0.0, le=1.0, description="fraction; studies with a dose report, structured or as a screenshot"
    )
    compressed_fraction: float = Field(
        default=0.3, ge=0.0, le=1.0, description="fraction; series stored compressed without loss, as archives do"
    )
    defects: bool = Field(
        default=True,
        description="switch; adds one specimen of each kind of broken study, so that quarantine has work",
    )
    pixel_mm_min: float = Field(default=3.0, gt=0.5, description="mm; smallest pixel edge, keeps the files small")
    pixel_mm_max: float = Field(default=3.4, gt=0.5, description="mm; largest pixel edge, finer than the model's voxel")
    scan_length_mm_min: float = Field(default=204.0, ge=180.0, description="mm; shortest scan, must fit the grid")
    scan_length_mm_max: float = Field(default=220.0, ge=180.0, description="mm; longest scan, must fit the grid")
    uncertain_fraction: float = Field(
        default=0.08, ge=0.0, le=1.0, description="fraction of present findings the radiologist hedges"
    )
    missed_fraction: float = Field(
        default=0.02, ge=0.0, le=1.0, description="fraction of present nodules the report leaves out, as readers do"
    )
    typo_fraction: float = Field(default=0.04, ge=0.0, le=1.0, description="fraction; sentences with one typing error")
    films: FilmDemoConfig = Field(default=FilmDemoConfig(), description="chest X-rays of the same patients")

    @model_validator(mode="after")
    def _ordered_ranges(self) -> DemoConfig:
        if self.pixel_mm_min > self.pixel_mm_max:
            raise ValueError("demo.pixel_mm_min is above demo.pixel_mm_max: swap them")
        if self.scan_length_mm_min > self.scan_length_mm_max:
            raise ValueError("demo.scan_length_mm_min is above demo.scan_length_mm_max: swap them")
        return self
