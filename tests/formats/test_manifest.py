"""Manifests are checked when they are written and when they are read."""

import polars as pl
import pytest

from glint.core.errors import InputError
from glint.formats.manifest import manifest_frame, read_manifest, schemas, write_manifest


def rows(status="ok", reason=None):
    return [{"study_id": "s0", "patient_id": "p0", "split": "train", "status": status, "reason": reason}]


def test_equal_manifests_have_equal_bytes_and_come_back(tmp_path):
    frame = manifest_frame(rows(), "split")
    for name in ("a", "b"):
        write_manifest(tmp_path / name, frame, "split")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_manifest(tmp_path / "a", "split").equals(frame)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop("split"), "lacks split"),
        (lambda frame: frame.with_columns(extra=1), "unknown column extra"),
        (lambda frame: frame.with_columns(pl.lit(1).alias("split")), "split is Int32, not String"),
        (lambda frame: frame.with_columns(pl.lit("done").alias("status")), "none of"),
        (lambda frame: frame.with_columns(pl.lit("quarantined").alias("status")), "have no reason"),
    ],
)
def test_a_frame_that_breaks_the_contract_is_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        write_manifest(tmp_path / "m.parquet", change(manifest_frame(rows(), "split")), "split")
    assert not (tmp_path / "m.parquet").exists()


def test_an_absent_or_broken_manifest_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(tmp_path / "none.parquet", "split")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="run its stage again"):
        read_manifest(tmp_path / "broken.parquet", "split")


def test_every_schema_has_a_status_with_a_reason():
    for name, schema in schemas().items():
        if "status" in schema:
            assert "reason" in schema, name
