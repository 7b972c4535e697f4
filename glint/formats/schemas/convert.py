"""Manifest of stage 03: one row per series that came in, for films one per film."""

import polars as pl

SCHEMAS = {
    "convert": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "series_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "path": pl.String,
        "shape_zyx": pl.List(pl.Int64),
        "spacing_mm": pl.List(pl.Float64),
        "repairs": pl.List(pl.String),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "convert_films": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "series_id": pl.String,
        "instance_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "path": pl.String,
        "shape_yx": pl.List(pl.Int64),
        "original_shape_yx": pl.List(pl.Int64),
        "crop_origin_yx": pl.List(pl.Int64),
        "spacing_mm_yx": pl.List(pl.Float64),
        "spacing_source": pl.String,
        "view": pl.String,
        "laterality": pl.String,
        "mirror_correlation": pl.Float64,
        "voi": pl.String,
        "inverted": pl.Boolean,
        "recipe": pl.String,
        "warnings": pl.List(pl.String),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
}
