"""Configuration of stage 04: the grid of the model."""

from typing import Annotated

from pydantic import Field, model_validator

from glint.core.config.base import StageConfig

Edge = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]


class ResampleConfig(StageConfig):
    """Spacing, size and value range of the volumes that the teacher and the student see."""

    spacing_mm: tuple[Edge, Edge, Edge] = Field(
        default=(4.0, 4.0, 4.0), description="mm (z, y, x); the teacher's voxel, exact on every volume"
    )
    grid: tuple[Size, Size, Size] = Field(
        default=(56, 56, 72), description="voxels (z, y, x); a multiple of the patch, laid about the scan's centre"
    )
    clip_hu: tuple[float, float] = Field(
        default=(-1024.0, 3071.0), description="HU; applied before interpolation, so that padding and metal don't bleed"
    )
    pad_hu: int = Field(default=-1024, description="HU; what stands outside the scan, the value of air or below")
    coverage_tolerance: float = Field(
        default=0.1, ge=0, lt=1, description="share; series so close to a study's longest compete by slice spacing"
    )

    @model_validator(mode="after")
    def _ranges(self) -> "ResampleConfig":
        if self.clip_hu[0] >= self.clip_hu[1] or self.clip_hu[0] < -32768 or self.clip_hu[1] > 32767:
            raise ValueError(f"clip_hu {self.clip_hu} must rise and fit in 16 bits")
        if not self.clip_hu[0] <= self.pad_hu <= self.clip_hu[1]:
            raise ValueError(f"pad_hu {self.pad_hu} lies outside clip_hu {self.clip_hu}")
        return self
