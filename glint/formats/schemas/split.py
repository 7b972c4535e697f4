"""Manifest of stage 06."""

import polars as pl

SCHEMAS = {
    "split": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "split": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
}
