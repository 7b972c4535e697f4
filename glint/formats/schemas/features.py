"""Manifest of stage 08: one row per study; `path` is the shard's HDF5, `row` the study's row in it."""

import polars as pl

SCHEMAS = {
    "features": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "path": pl.String,
        "row": pl.Int64,
        "fingerprint": pl.String,
        "input_digest": pl.String,
        "params_digest": pl.String,
    }
}
