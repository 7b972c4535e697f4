"""Manifests of stage 02."""

import polars as pl

SCHEMAS = {
    "deidentify_images": {
        "study_id": pl.String,
        "patient_id": pl.String,
        "series_id": pl.String,
        "kind": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "path": pl.String,
        "num_instances": pl.Int64,
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "deidentify_reports": {
        "study_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "text": pl.String,
        "num_replacements": pl.Int64,
        "replacements": pl.List(pl.Struct({"kind": pl.String, "start": pl.Int64, "end": pl.Int64})),
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "report_spans": {"study_id": pl.String, "kind": pl.String, "start": pl.Int64, "end": pl.Int64},
}
