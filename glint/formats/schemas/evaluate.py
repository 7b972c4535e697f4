"""Manifest of stage 10's truth: one row per study of the cohort that has masks."""

import polars as pl

SCHEMAS = {
    "evaluate_truth": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "split": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "path": pl.String,
        "findings": pl.List(pl.String),
        "voxels": pl.List(pl.Int64),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "evaluate_queries": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "split": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "query": pl.Int64,
        "finding": pl.String,
        "sentence": pl.String,
        "path": pl.String,
        "voxels": pl.Int64,
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
}
