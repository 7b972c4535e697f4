"""Configuration of stage 03: which series become volumes."""

from pydantic import Field

from glint.core.config.base import StageConfig


class ConvertConfig(StageConfig):
    """Limits of the geometry gate and of the plausibility checks."""

    min_slices: int = Field(
        default=16, ge=2, description="slices; a chest of 20 cm has 20 even at 10 mm, fewer are a fragment"
    )
    spacing_tolerance: float = Field(
        default=0.01, ge=0, lt=0.5, description="share of the median gap; a gap may differ by this plus the next"
    )
    spacing_tolerance_mm: float = Field(
        default=0.005, ge=0, description="mm; added to the share, since headers round positions to micrometres or worse"
    )
    drift_tolerance: float = Field(
        default=0.1, ge=0, le=0.25, description="slices; how far jitter may add up: a lesion has to keep its place"
    )
    missing_gap: float = Field(
        default=1.5, gt=1, description="times the median gap; a wider one means that a slice is missing"
    )
    max_tilt_degrees: float = Field(
        default=0.5, ge=0, lt=90, description="degrees between slice normal and stacking; beyond it the grid is sheared"
    )
    max_oblique_degrees: float = Field(
        default=30.0, ge=0, lt=45, description="degrees between slice normal and body axis; beyond it, a reformat"
    )
    max_air_hu: float = Field(
        default=-900.0, description="HU; the darkest voxel must be below, or the values are not HU (air is -1000)"
    )
    min_hu: float = Field(
        default=-3100.0, description="HU; darker than any padding (-2000 rescaled is -3024): rescaled more than once"
    )
    min_tissue_fraction: float = Field(
        default=0.01, ge=0, lt=1, description="share of voxels in -200..300 HU; less: a second rescale shifted them"
    )
    min_lung_fraction: float = Field(
        default=0.03, ge=0, lt=1, description="share of the body in -950..-600 HU; less is no chest, 0 accepts all"
    )
