"""A dozen synthetic studies through stages 00 to 05 by the commands: what goes in comes out, and no identity with it."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from glint.cli.__main__ import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from planted_identities import search

SHARD = "shard-000"


def glint(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """Workspace of a hospital of 12 studies and its specimens of every defect, one shard."""
    root = tmp_path_factory.mktemp("road")
    demo, index, results = root / "demo", root / "restricted", root / "results"
    glint("demo", "--studies", 12, "--seed", 3, "--out", demo, "--workers", 1)
    columns = {"num_shards": 1, "patient_id_column": "patient_id", "identifier_columns": ["patient_name"]}
    config = json.dumps(columns)
    images = index / "images"
    glint(
        "index", "images", "--raw", demo / "dicom", "--out", images, "--key-file", demo / "deid.key", "--config", config
    )
    table = demo / "reports.csv"
    glint("index", "reports", "--images", images, "--table", table, "--out", index / "reports", "--config", config)
    key = ("--key-file", demo / "deid.key")
    clean = results / "02_deidentify"
    glint(
        "deidentify", "images", "--index", images / SHARD, "--out", clean / "images" / SHARD / "manifest.parquet", *key
    )
    reports = index / "reports" / SHARD / "reports.parquet"
    studies = images / SHARD / "studies.parquet"
    out = clean / "reports" / SHARD / "manifest.parquet"
    glint("deidentify", "reports", "--reports", reports, "--studies", studies, "--out", out, *key)
    source = clean / "images" / SHARD / "manifest.parquet"
    for stage in ("03_convert", "04_resample"):
        target = results / stage / SHARD / "manifest.parquet"
        glint(stage[3:], "--manifest", source, "--out", target)
        source = target
    sections = results / "05_sections" / SHARD / "manifest.parquet"
    glint("sections", "--manifest", clean / "reports" / SHARD / "manifest.parquet", "--out", sections)
    return root


def test_no_planted_identity_leaves_the_restricted_folder_and_the_search_would_find_one(road):
    files, sought, hits = search(road / "demo" / "identities.json", [road / "results"])
    assert files > 500 and sought > 100
    assert hits == []
    assert search(road / "demo" / "identities.json", [road / "restricted"])[2]


def test_every_whole_study_arrives_and_every_defect_has_its_reason(road):
    manifest = pl.read_parquet(road / "results" / "04_resample" / SHARD / "manifest.parquet")
    assert (manifest["status"] == "ok").sum() >= 12
    convert = pl.read_parquet(road / "results" / "03_convert" / SHARD / "manifest.parquet")
    reasons = set(convert["reason"].drop_nulls())
    assert {"missing_slice", "gantry_tilt", "localizer", "one_slice", "truncated"} <= reasons
    reports = pl.read_parquet(road / "restricted" / "reports" / "quarantine.parquet")
    assert {"no_report", "no_study", "ambiguous_accession"} <= set(reports["reason"])


def test_nothing_is_lost_between_the_stages(road):
    studies = set(pl.read_parquet(road / "restricted" / "images" / "studies.parquet")["study_id"])
    for stage in ("02_deidentify/images", "03_convert", "04_resample"):
        manifest = pl.read_parquet(road / "results" / stage / SHARD / "manifest.parquet")
        assert set(manifest["study_id"]) == studies, stage
