"""Manifest of stage 04: one row per study; `not_selected` lists its other usable series."""

import polars as pl

SCHEMAS = {
    "resample": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "series_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "path": pl.String,
        "affine": pl.List(pl.Float64),
        "valid_box": pl.List(pl.Int64),
        "not_selected": pl.List(pl.String),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "resample_films": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "series_id": pl.String,
        "instance_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "path": pl.String,
        "view": pl.String,
        "to_original": pl.List(pl.Float64),
        "valid_box": pl.List(pl.Int64),
        "spacing_mm_yx": pl.List(pl.Float64),
        "not_selected": pl.List(pl.String),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
}
