"""Manifest of stage 03: one row per series that came in."""

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
    }
}
