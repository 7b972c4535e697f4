"""Join free-text reports to indexed studies; what has no partner, or two, is set aside with its reason."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from glint.core.config.index import IndexConfig
from glint.formats.manifest import (
    empty_manifest,
    manifest_frame,
    read_manifest,
    read_manifests,
    write_manifest_if_changed,
)
from glint.formats.report_table import read_report_table
from glint.prepare.index.shards import shard_names


@dataclass(frozen=True, kw_only=True)
class ReportIndex:
    """`reports`: one row per study; `quarantine`: reports that no study claims; `num_rows` of the report table."""

    reports: pl.DataFrame
    quarantine: pl.DataFrame
    num_rows: int


def report_columns(config: IndexConfig) -> list[str]:
    """The columns of the report table that the index reads, each once."""
    own = config.date_column if config.report_key == "patient_and_date" else config.key_column
    names = [own, config.text_column, config.patient_id_column, *config.identifier_columns]
    return list(dict.fromkeys(name for name in names if name is not None))


def _keys(study: Mapping[str, Any], config: IndexConfig) -> list[str]:
    """What may join a report to a study; a study read under two accession numbers has both, parted by a backslash.

    A study across midnight has two dates.
    """
    if config.report_key == "patient_and_date":
        days = {text.strip() for text in study["study_dates"]} if _plain(study["raw_patient_id"]) else set()
        return [_pair(study["raw_patient_id"], day) for day in sorted(days) if day]
    if config.report_key == "folder":
        return list(study["folders"])
    column = "accession" if config.report_key == "accession" else "study_uid"
    return [key for part in study[column].split("\\") if (key := part.strip())]


def _key_of(row: Mapping[str, str], config: IndexConfig) -> str:
    """The key of a report table's row, "" where it has none or its date can't be read."""
    if config.report_key != "patient_and_date":
        return row[config.key_column].strip()
    patient, day = row[config.patient_id_column or ""], row[config.date_column or ""].strip()
    try:
        return _pair(patient, datetime.strptime(day, config.date_format).strftime("%Y%m%d")) if _plain(patient) else ""
    except ValueError:
        return ""


def _plain(patient: str) -> str:
    return patient.strip().casefold().lstrip("0")


def _pair(patient: str, day: str) -> str:
    return f"{_plain(patient)} {day.replace('.', '').replace('-', '')}"


def _same(first: str, second: str) -> bool:
    return _plain(first) == _plain(second)


def _verdict(study: dict[str, Any], rows: list[dict[str, str]], ambiguous: bool, config: IndexConfig) -> str | None:
    """Why the report of one study can't be used, or None."""
    if not rows:
        return "no_report"
    if ambiguous:
        return f"ambiguous_{config.report_key}"
    if len({row[config.text_column].strip() for row in rows}) > 1:
        return "several_reports"
    if not rows[0][config.text_column].strip():
        return "empty_report"
    named, known = config.patient_id_column, study["raw_patient_id"]
    if named and known and any(row[named].strip() and not _same(row[named], known) for row in rows):
        return "patient_mismatch"
    return None


def _report_row(
    study: dict[str, Any], rows: list[dict[str, str]], reason: str | None, config: IndexConfig
) -> dict[str, Any]:
    dated = (config.text_column, config.date_column)  # dates are known from the header and shifted
    values = {row[name].strip() for row in rows for name in report_columns(config) if name not in dated}
    return {
        "study_id": study["study_id"],
        "shard": study["shard"],
        "text": rows[0][config.text_column] if reason is None else None,
        "identifiers": sorted(value for value in values if value),
        "status": "ok" if reason is None else "quarantined",
        "reason": reason,
    }


def join_reports(studies: pl.DataFrame, table: pl.DataFrame, config: IndexConfig) -> ReportIndex:
    """One report row per study of `studies` (schema `index_studies`), joined with `table` by `config.report_key`.

    Where that is `folder`, `studies` has a further column of lists, `folders`; see `with_folders`.
    """
    by_key: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in table.iter_rows(named=True):
        by_key[_key_of(row, config)].append(row)
    claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for study in studies.iter_rows(named=True):
        for key in _keys(study, config):
            claims[key].append(study)
    reports = []
    for study in studies.iter_rows(named=True):
        keys = _keys(study, config)
        rows = [row for key in keys for row in by_key.get(key, [])]
        reason = _verdict(study, rows, any(len(claims[key]) > 1 for key in keys), config)
        reports.append(_report_row(study, rows, reason, config))
    orphans = [
        {"level": "report", "item": key, "reason": "no_study" if key else "no_key"}
        for key, rows in by_key.items()
        if not key or key not in claims
        for _ in rows
    ]
    quarantined = [
        {"level": "report", "study_id": row["study_id"], "reason": row["reason"]} for row in reports if row["reason"]
    ]
    return ReportIndex(
        reports=manifest_frame(reports, "index_reports").sort("study_id"),
        quarantine=manifest_frame(orphans + quarantined, "index_quarantine").sort(
            "reason", "study_id", "item", nulls_last=True
        ),
        num_rows=table.height,
    )


def with_folders(studies: pl.DataFrame, instances: pl.DataFrame) -> pl.DataFrame:
    """Studies with `folders`: names of the folders that their files lie in, from the table `index_instances`."""
    named = instances.with_columns(
        folders=pl.col("file").map_elements(lambda file: PurePosixPath(file).parent.name, return_dtype=pl.String)
    )
    by_study = named.group_by("study_id").agg(pl.col("folders").unique().sort())
    return studies.join(by_study, on="study_id", how="left").with_columns(pl.col("folders").fill_null([]))


def index_reports(images: Path, table: Path, out: Path, config: IndexConfig) -> ReportIndex:
    """Join `table` to the indexed studies and write `<out>/<shard>/reports.parquet` for every shard, empty ones too.

    A shard whose rows are the same keeps its file untouched: one corrected report touches one shard.
    """
    studies = read_manifest(images, "index_studies")
    if config.report_key == "folder":
        shards = [images.parent / name / "instances.parquet" for name in shard_names(config.num_shards)]
        studies = with_folders(studies, read_manifests(shards, "index_instances"))
    index = join_reports(studies, read_report_table(table, report_columns(config)), config)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    by_shard = index.reports.partition_by("shard", as_dict=True, maintain_order=True)
    for name in shard_names(config.num_shards):
        frame = by_shard.get((name,), empty_manifest("index_reports"))
        write_manifest_if_changed(out / name / "reports.parquet", frame, "index_reports")
    for folder in out.glob("shard-*"):
        if folder.name not in shard_names(config.num_shards):
            shutil.rmtree(folder)
    write_manifest_if_changed(out / "quarantine.parquet", index.quarantine, "index_quarantine")
    write_manifest_if_changed(out / "reports.parquet", index.reports, "index_reports")
    return index
