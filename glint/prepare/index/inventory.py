"""From headers to the tables of instances, series and studies, with a reason for all that is set aside."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from glint.core.ids import Pseudonyms
from glint.core.provenance import sha256_file
from glint.formats.dicom import InstanceHeader
from glint.formats.manifest import manifest_frame
from glint.prepare.index.classify import SeriesVerdict, classify_series
from glint.prepare.index.scan import Scan
from glint.prepare.index.shards import assign_shards

Row = dict[str, Any]
Groups = dict[str, list[InstanceHeader]]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The tables of stage 01, sorted by identifier."""

    instances: pl.DataFrame
    series: pl.DataFrame
    studies: pl.DataFrame
    quarantine: pl.DataFrame


def _missing_uid(header: InstanceHeader) -> str | None:
    for name, value in (
        ("series_uid", header.series_uid),
        ("study_uid", header.study_uid),
        ("sop_instance_uid", header.sop_instance_uid),
        ("sop_class_uid", header.sop_class_uid),
    ):
        if not value:
            return f"missing_{name}"
    return None


def _duplicates(headers: Sequence[InstanceHeader]) -> tuple[dict[str, str], set[str]]:
    """Copies to drop (file → reason) and series UIDs in which one SOP Instance UID stands for different files."""
    by_uid: dict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        by_uid[header.sop_instance_uid].append(header)
    dropped: dict[str, str] = {}
    conflicts: set[str] = set()
    for group in by_uid.values():
        if len(group) == 1:
            continue
        same_size = len({header.file_size for header in group}) == 1
        if same_size and len({sha256_file(header.file) for header in group}) == 1:
            dropped.update((header.file, "duplicate") for header in group[1:])
        else:
            conflicts.update(header.series_uid for header in group)
    return dropped, conflicts


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


@dataclass(frozen=True)
class _Suspects:
    """What looking across files has found: copies to drop, series in conflict, series claimed by two studies."""

    copies: Mapping[str, str]
    conflicts: Collection[str]
    split_series: Collection[str]
    non_chest_body_parts: Collection[str]

    def verdict(self, series_uid: str, headers: Sequence[InstanceHeader], several_patients: bool) -> SeriesVerdict:
        """The verdict on a series from its own headers, then from what is known about its neighbours."""
        originals = [header for header in headers if header.file not in self.copies]
        verdict = classify_series(originals, non_chest_body_parts=self.non_chest_body_parts)
        checks = (
            (several_patients, "several_patients"),
            (series_uid in self.conflicts, "conflicting_duplicates"),
            (series_uid in self.split_series, "series_in_several_studies"),
        )
        reason = verdict.reason or next((name for found, name in checks if found), None)
        return replace(verdict, reason=reason)


def _split_series(headers: Iterable[InstanceHeader]) -> set[str]:
    claims = Counter(series for series, _ in {(header.series_uid, header.study_uid) for header in headers})
    return {series for series, count in claims.items() if count > 1}


def _tabulate_study(
    members: Sequence[InstanceHeader], base: Row, pseudonyms: Pseudonyms, suspects: _Suspects
) -> tuple[list[Row], list[Row]]:
    """Series rows and instance rows of one study; `leaves_series` marks files dropped one by one."""
    several = len({header.raw_patient_id for header in members}) > 1
    rows: list[Row] = []
    instances: list[Row] = []
    for series_uid, slices in _grouped(members, lambda header: header.series_uid).items():
        series_base = base | {"series_id": pseudonyms.series_id(series_uid)}
        verdict = suspects.verdict(series_uid, slices, several)
        dropped = {header.file: suspects.copies[header.file] for header in slices if header.file in suspects.copies}
        dropped |= verdict.dropped
        rows.append(_series_row(slices, len(slices) - len(dropped), verdict, series_base))
        for header in slices:
            reason = dropped.get(header.file, verdict.reason)
            row = _instance_row(header, pseudonyms.instance_id(header.sop_instance_uid), reason, series_base)
            instances.append(row | {"leaves_series": header.file in dropped})
    return rows, instances


def build_inventory(
    scan: Scan,
    pseudonyms: Pseudonyms,
    *,
    known_shards: Mapping[str, str],
    num_shards: int,
    non_chest_body_parts: Collection[str],
) -> Inventory:
    """Group headers into series and studies, classify, find copies and conflicts, and assign shards.

    A series is what shares a Study and a Series Instance UID. A file without a UID belongs to no study: it is listed
    in `quarantine` alone, with the first UID that is missing.
    """
    quarantine: list[Row] = [_quarantined("file", None, None, file, reason) for file, reason in scan.unreadable]
    identified = []
    for header in scan.headers:
        reason = _missing_uid(header)
        if reason is None:
            identified.append(header)
        else:
            quarantine.append(_quarantined("file", None, None, header.file, reason))
    copies, conflicts = _duplicates(identified)
    suspects = _Suspects(copies, conflicts, _split_series(identified), frozenset(non_chest_body_parts))
    studies = _grouped(identified, lambda header: header.study_uid)
    ids = {uid: pseudonyms.study_id(uid) for uid in studies}
    shards = assign_shards(ids.values(), known_shards, num_shards=num_shards)
    instance_rows: list[Row] = []
    series_rows: list[Row] = []
    study_rows: list[Row] = []
    for study_uid, members in studies.items():
        key = patient_key(members[0])
        base: Row = {
            "study_id": ids[study_uid],
            "patient_id": pseudonyms.patient_id(key),
            "shard": shards[ids[study_uid]],
        }
        rows, instances = _tabulate_study(members, base, pseudonyms, suspects)
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
        quarantine=manifest_frame(quarantine, "index_quarantine").sort(
            "level", "study_id", "series_id", "item", "reason", nulls_last=True
        ),
    )


def _quarantined(level: str, study_id: str | None, series_id: str | None, item: str | None, reason: str | None) -> Row:
    return {"level": level, "study_id": study_id, "series_id": series_id, "item": item, "reason": reason}
