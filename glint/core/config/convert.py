"""Configuration of stage 03: which series become volumes, and how films become images."""

from typing import Literal

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
    repair_tilt: bool = Field(
        default=False,
        description="true shifts tilted slices upright in their plane, recorded; false sets the series aside",
    )
    repair_variable_spacing: bool = Field(
        default=False,
        description="true interpolates uneven slices at true positions, recorded; never across a missing slice",
    )
    max_evened_gap_mm: float = Field(
        default=8.0, gt=0, description="mm; a wider gap is not interpolated: a nodule would be invented or lost in it"
    )
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = Field(
        default=("axial",),
        min_length=1,
        description="planes of acquisition that pass; coronal and sagittal are turned to axial order, recorded",
    )
    max_oblique_degrees: float = Field(
        default=30.0, ge=0, lt=45, description="degrees between slice normal and body axis; beyond it, a reformat"
    )
    max_slice_surprise: float = Field(
        default=1.15, gt=1, description="ratio; below 0.8 in real scans, above 1.3 once two slices are exchanged"
    )
    max_air_hu: float = Field(
        default=-900.0, description="HU; the darkest voxel must be below, or the values are not HU (air is -1000)"
    )
    min_hu: float = Field(
        default=-3100.0, description="HU; darker than any padding (-2000 rescaled is -3024): rescaled more than once"
    )
    min_air_hu: float = Field(
        default=-1100.0, description="HU; the air around the body is brighter in the median, or the intercept is wrong"
    )
    padding_below_hu: float = Field(
        default=-1200.0, description="HU; darker is padding around the scanner's circle, not air: set to padding_hu"
    )
    padding_hu: int = Field(default=-1024, ge=-1024, le=-900, description="HU; what padding becomes: air or just below")
    min_tissue_fraction: float = Field(
        default=0.01, ge=0, lt=1, description="share of voxels in -200..300 HU; less: a second rescale shifted them"
    )
    min_lung_fraction: float = Field(
        default=0.03, ge=0, lt=1, description="share of the body in -950..-600 HU; less is no chest, 0 accepts all"
    )


class FilmConvertConfig(StageConfig):
    """How a film's stored values become a 16-bit image, and which films are refused."""

    recipe: Literal["rad_dino", "mimic_jpg"] = Field(
        default="rad_dino",
        description="rad_dino: VOI, then min-max; mimic_jpg: no VOI, histogram equalised in 8 bits; never mix them",
    )
    crop_shutter: bool = Field(
        default=True, description="switch; cut to the shutter or collimator of the header, black outside; offset kept"
    )
    crop_border: bool = Field(
        default=True, description="switch; cut empty border rows and columns that no header names; offset kept"
    )
    border_tolerance: float = Field(
        default=0.02, ge=0, lt=0.2, description="share of the film's range; a border's values differ by no more"
    )
    max_border_share: float = Field(
        default=0.3, ge=0, lt=0.5, description="share of an edge; a border wider than this on one side stays uncut"
    )
    min_edge: int = Field(
        default=256, ge=16, description="pixels; a film with a shorter edge is a thumbnail, vessels are lost in it"
    )
    accept_color: bool = Field(
        default=False, description="switch; turn coloured films to grey; off: refuse, grey stored as colour passes"
    )
    color_tolerance: float = Field(
        default=0.06,
        ge=0,
        lt=1,
        description="share of full scale; channels that differ less are grey (JPEG, warm tint)",
    )
    mirror_frontal_min: float = Field(
        default=0.2, ge=-1, le=1, description="correlation with the mirrored film; a frontal film below it is doubted"
    )
    mirror_lateral_max: float = Field(
        default=0.85, ge=-1, le=1, description="correlation with the mirrored film; a lateral film above it is doubted"
    )
