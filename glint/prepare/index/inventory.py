"""From headers to the tables of instances, series and studies, with a reason for all that is set aside."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.ids import Pseudonyms
from glint.formats.dicom import InstanceHeader
from glint.formats.header_cache import HEADER, OTHER, source_path
from glint.formats.manifest import manifest_frame
from glint.prepare.index.classify import SeriesVerdict, classify_series
from glint.prepare.index.suspects import Suspects

Row = dict[str, Any]
Groups = dict[str, list[InstanceHeader]]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The tables of stage 01, sorted by identifier."""

    instances: pl.DataFrame
    series: pl.DataFrame
    studies: pl.DataFrame
    quarantine: pl.DataFrame


def patient_key(header: InstanceHeader) -> str:
    """What makes a patient: the Patient ID, or the study where none is given (nothing is invented or merged)."""
    return header.raw_patient_id or f"study:{header.study_uid}"


def _unique(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _study_row(study_uid: str, headers: Sequence[InstanceHeader], series: Sequence[Row], shard: str, key: str) -> Row:
    """Identity and status of one study; its identifiers are what stage 02 must find and remove."""
    usable = [row for row in series if row["status"] == "ok"]
    reasons = {row["reason"] for row in series if row["kind"] == "volume"}
    several_patients = len({header.raw_patient_id for header in headers}) > 1
    reason = "several_patients" if several_patients else next(iter(reasons)) if len(reasons) == 1 else "no_volume"
    ok = bool(usable) and not several_patients
    return {
        "study_id": series[0]["study_id"],
        "patient_id": series[0]["patient_id"],
        "shard": shard,
        "study_uid": study_uid,
        "patient_key": key,
        "raw_patient_id": headers[0].raw_patient_id,
        "accession": next(iter(_unique(header.accession for header in headers)), ""),
        "patient_names": _unique(name for header in headers for name in header.patient_names),
        "other_persons": _unique(name for header in headers for name in header.other_persons),
        "identifiers": _unique(value for header in headers for value in header.identifiers),
        "institutions": _unique(value for header in headers for value in header.institutions),
        "birth_dates": _unique(header.birth_date for header in headers),
        "study_dates": _unique(date for header in headers for date in header.study_dates),
        "num_series": len(series),
        "num_instances": sum(row["num_instances"] for row in series),
        "status": "ok" if ok else "quarantined",
        "reason": None if ok else reason,
    }


def _series_row(headers: Sequence[InstanceHeader], kept: int, verdict: SeriesVerdict, base: Row) -> Row:
    first = headers[0]
    return base | {
        "kind": verdict.kind,
        "num_instances": kept,
        "modality": first.modality,
        "kernel": first.kernel,
        "description": first.series_description,
        "rows": first.rows,
        "columns": first.columns,
        "status": "ok" if verdict.reason is None else "quarantined",
        "reason": verdict.reason,
    }


def _instance_row(header: InstanceHeader, instance_id: str, reason: str | None, base: Row) -> Row:
    return base | {
        "instance_id": instance_id,
        "file": header.file,
        "file_size": header.file_size,
        "header_digest": header.header_digest,
        "sop_instance_uid": header.sop_instance_uid,
        "instance_number": header.instance_number,
        "status": "ok" if reason is None else "quarantined",
        "reason": reason,
    }


def _grouped(headers: Iterable[InstanceHeader], key: Callable[[InstanceHeader], str]) -> Groups:
    groups: Groups = defaultdict(list)
    for header in headers:
        groups[key(header)].append(header)
    return dict(groups)


def _verdict(
    series_uid: str,
    headers: Sequence[InstanceHeader],
    several_patients: bool,
    suspects: Suspects,
    parts: frozenset[str],
) -> SeriesVerdict:
    """The verdict on a series from its own headers, then from what is known about its neighbours."""
    originals = [header for header in headers if header.file not in suspects.copies]
    verdict = classify_series(originals, non_chest_body_parts=parts)
    checks = (
        (several_patients, "several_patients"),
        (series_uid in suspects.conflicts, "conflicting_duplicates"),
        (series_uid in suspects.split_series, "series_in_several_studies"),
    )
    reason = verdict.reason or next((name for found, name in checks if found), None)
    return replace(verdict, reason=reason)


def _tabulate_study(
    members: Sequence[InstanceHeader], base: Row, pseudonyms: Pseudonyms, suspects: Suspects, parts: frozenset[str]
) -> tuple[list[Row], list[Row]]:
    """Series rows and instance rows of one study; `leaves_series` marks files dropped one by one."""
    several = len({header.raw_patient_id for header in members}) > 1
    rows: list[Row] = []
    instances: list[Row] = []
    for series_uid, slices in _grouped(members, lambda header: header.series_uid).items():
        series_base = base | {"series_id": pseudonyms.series_id(series_uid)}
        verdict = _verdict(series_uid, slices, several, suspects, parts)
        dropped = {header.file: suspects.copies[header.file] for header in slices if header.file in suspects.copies}
        dropped |= verdict.dropped
        rows.append(_series_row(slices, len(slices) - len(dropped), verdict, series_base))
        for header in slices:
            reason = dropped.get(header.file, verdict.reason)
            row = _instance_row(header, pseudonyms.instance_id(header.sop_instance_uid), reason, series_base)
            instances.append(row | {"leaves_series": header.file in dropped})
    return rows, instances


def build_inventory(
    headers: Sequence[InstanceHeader],
    pseudonyms: Pseudonyms,
    *,
    shard: str,
    suspects: Suspects,
    non_chest_body_parts: Collection[str],
) -> Inventory:
    """Group the headers of one shard, in order of path, into series and studies and classify them.

    A series is what shares a Study and a Series Instance UID.
    """
    studies = _grouped(headers, lambda header: header.study_uid)
    parts = frozenset(non_chest_body_parts)
    quarantine: list[Row] = []
    instance_rows: list[Row] = []
    series_rows: list[Row] = []
    study_rows: list[Row] = []
    for study_uid, members in studies.items():
        key = patient_key(members[0])
        base: Row = {
            "study_id": pseudonyms.study_id(study_uid),
            "patient_id": pseudonyms.patient_id(key),
            "shard": shard,
        }
        rows, instances = _tabulate_study(members, base, pseudonyms, suspects, parts)
        quarantine += [
            _quarantined("instance", row["study_id"], row["series_id"], row["file"], row["reason"])
            for row in instances
            if row["leaves_series"]
        ]
        quarantine += [
            _quarantined("series", row["study_id"], row["series_id"], None, row["reason"])
            for row in rows
            if row["reason"]
        ]
        instance_rows += [{name: value for name, value in row.items() if name != "leaves_series"} for row in instances]
        series_rows += rows
        study_rows.append(_study_row(study_uid, members, rows, base["shard"], key))
    return Inventory(
        instances=manifest_frame(instance_rows, "index_instances").sort("study_id", "series_id", "instance_id", "file"),
        series=manifest_frame(series_rows, "index_series").sort("study_id", "series_id"),
        studies=manifest_frame(study_rows, "index_studies").sort("study_id"),
        quarantine=quarantine_frame(quarantine),
    )


def files_without_study(rows: pl.DataFrame, roots: Sequence[Path]) -> pl.DataFrame:
    """Quarantine rows of files that belong to no study: unreadable, or without a UID, naming the first that is missing."""
    uids = ("series_uid", "study_uid", "sop_instance_uid", "sop_class_uid")
    missing = pl.coalesce(pl.when(pl.col(name) == "").then(pl.lit(f"missing_{name}")) for name in uids)
    reason = pl.when(pl.col("state") == HEADER).then(missing).otherwise(pl.col("state"))
    lost = rows.filter(pl.col("state") != OTHER).select("source", reason=reason)
    return quarantine_frame(
        [_quarantined("file", None, None, source_path(source, roots), reason) for source, reason in lost.iter_rows()]
    )


def quarantine_frame(rows: list[Row]) -> pl.DataFrame:
    """The table of what is set aside, sorted."""
    return sort_quarantine(manifest_frame(rows, "index_quarantine"))


def sort_quarantine(frame: pl.DataFrame) -> pl.DataFrame:
    """By level, then study, series and item."""
    return frame.sort("level", "study_id", "series_id", "item", "reason", nulls_last=True)


def _quarantined(level: str, study_id: str | None, series_id: str | None, item: str | None, reason: str | None) -> Row:
    return {"level": level, "study_id": study_id, "series_id": series_id, "item": item, "reason": reason}
