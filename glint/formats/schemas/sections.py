"""Manifest and tables of stage 05; start and end are characters of the de-identified report text."""

import polars as pl

SCHEMAS = {
    "sections": {
        "study_id": pl.String,
        "status": pl.String,
        "reason": pl.String,
        "path": pl.String,
        "unsectioned": pl.Boolean,
        "num_sections": pl.Int64,
        "num_sentences": pl.Int64,
        "num_findings": pl.Int64,
        "input_digest": pl.String,
        "params_digest": pl.String,
    },
    "section_spans": {
        "study_id": pl.String,
        "section": pl.String,
        "header": pl.String,
        "start": pl.Int64,
        "end": pl.Int64,
        "text": pl.String,
    },
    "sentences": {
        "study_id": pl.String,
        "sentence_index": pl.Int64,
        "section": pl.String,
        "start": pl.Int64,
        "end": pl.Int64,
        "text": pl.String,
        "sentence_class": pl.String,
    },
    "findings": {
        "study_id": pl.String,
        "sentence_index": pl.Int64,
        "finding": pl.String,
        "polarity": pl.String,
        "laterality": pl.String,
        "region": pl.String,
        "size_mm": pl.Float64,
        "start": pl.Int64,
        "end": pl.Int64,
        "finding_class": pl.String,
        "comparison": pl.String,
    },
}
