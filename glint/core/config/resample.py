"""Configuration of stage 04: the grid of the model."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from glint.core.config.base import StageConfig
from glint.core.config.grids import GRID_PRESETS

Edge = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]


class ResampleConfig(StageConfig):
    """Spacing, size and value range of the volumes that the teacher and the student see."""

    preset: str | None = Field(
        default=None,
        description=f"name of a published model's grid ({', '.join(GRID_PRESETS)}), which sets the next five keys; "
        "null: they count as they stand",
    )
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
    antialias: bool = Field(
        default=True,
        description="switch; average axes that shrink; off only for a teacher that was trained on plain linear volumes",
    )
    coverage_tolerance: float = Field(
        default=0.1, ge=0, lt=1, description="share; series so close to a study's longest compete by slice spacing"
    )

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in GRID_PRESETS:
            raise ValueError(f"no preset {name!r}; known are {', '.join(GRID_PRESETS)}")
        return name

    @model_validator(mode="after")
    def _preset(self) -> "ResampleConfig":
        """The preset's values take the place of the defaults; a third value is a contradiction."""
        if self.preset is None:
            return self
        for key in ("spacing_mm", "grid", "clip_hu", "pad_hu", "antialias"):
            wanted: Any = getattr(GRID_PRESETS[self.preset], key)
            if getattr(self, key) not in (wanted, type(self).model_fields[key].default):
                raise ValueError(f"preset {self.preset} sets {key} to {wanted}, not {getattr(self, key)}: name one")
            object.__setattr__(self, key, wanted)  # the model is frozen for everybody else
        return self

    @model_validator(mode="after")
    def _ranges(self) -> "ResampleConfig":
        if self.clip_hu[0] >= self.clip_hu[1] or self.clip_hu[0] < -32768 or self.clip_hu[1] > 32767:
            raise ValueError(f"clip_hu {self.clip_hu} must rise and fit in 16 bits")
        if not self.clip_hu[0] <= self.pad_hu <= self.clip_hu[1]:
            raise ValueError(f"pad_hu {self.pad_hu} lies outside clip_hu {self.clip_hu}")
        return self


class FilmResampleConfig(StageConfig):
    """Size of the images that the teacher and the student see, and which film stands for a study."""

    grid_yx: tuple[Size, Size] = Field(
        default=(518, 518),
        description="pixels (y, x); the teacher's image, RAD-DINO's and DINOv2's 518 = 37 patches of 14",
    )
    fit: Literal["pad", "crop"] = Field(
        default="pad",
        description="pad: the whole film, the rest black and marked; crop: the short side fills, the centre stays",
    )
    view_order: tuple[Literal["PA", "AP", "lateral", "oblique", "unknown"], ...] = Field(
        default=("PA", "AP", "unknown", "lateral"),
        description="views; the first that a study has stands for it, a view that is not named is not used",
    )

    @property
    def grid(self) -> tuple[int, int, int]:
        """The grid with its one slice, (z, y, x)."""
        return 1, *self.grid_yx
