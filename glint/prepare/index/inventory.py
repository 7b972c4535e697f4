"""From headers to the tables of instances, series and studies, with a reason for all that is set aside."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms, part_uid
from glint.formats.archives import raw_bytes
from glint.formats.dicom import InstanceHeader, pixel_digest
from glint.formats.header_cache import ARCHIVE, HEADER, NO_DICOM, source_path
from glint.formats.manifest import manifest_frame
from glint.prepare.index.classify import SeriesVerdict
from glint.prepare.index.parts import repeated_positions, split_series
from glint.prepare.index.suspects import Suspects

Row = dict[str, Any]
Classify = Callable[[Sequence[InstanceHeader]], SeriesVerdict]
Groups = dict[str, list[InstanceHeader]]
WANTED = ("volume", "film")
STACKS = ("volume", "reformat", "one_slice")  # kinds that may be several stacks in one series


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
    reasons = {row["reason"] for row in series if row["kind"] in WANTED}
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
        "accession": "\\".join(_unique(header.accession for header in headers)),
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


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One series, or one of several that share a UID: its files, and the verdict on those that stay."""

    key: str
    members: Sequence[InstanceHeader]
    verdict: SeriesVerdict


def _parts(
    headers: Sequence[InstanceHeader], suspects: Suspects, classify: Classify, roots: Sequence[Path]
) -> list[_Part]:
    """The series that share one UID; scouts, captures and copies among slices leave the largest of them."""
    originals = [header for header in headers if header.file not in suspects.copies]
    whole = classify(originals)
    slices = [header for header in originals if header.file not in whole.dropped]
    split = split_series(slices) if whole.kind in STACKS else {"": slices}
    if len(split) == 1:
        return [_without_repeats(_Part(key="", members=headers, verdict=whole), slices, roots)]
    largest = max(split, key=lambda key: (len(split[key]), key))
    leaving = [header for header in headers if header.file in suspects.copies or header.file in whole.dropped]
    found = []
    for key, members in split.items():
        verdict = classify(members)
        if key == largest:
            part = _Part(key=key, members=[*members, *leaving], verdict=replace(verdict, dropped=whole.dropped))
        else:
            part = _Part(key=key, members=members, verdict=verdict)
        found.append(_without_repeats(part, members, roots))
    return found


def _without_repeats(part: _Part, slices: Sequence[InstanceHeader], roots: Sequence[Path]) -> _Part:
    """Drop images that repeat another one at their place pixel by pixel; different ones are the geometry gate's."""
    if part.verdict.reason is not None:
        return part
    dropped = dict(part.verdict.dropped)
    for group in repeated_positions(slices):
        seen: set[str] = set()
        for header in group:
            try:
                pixels = pixel_digest(raw_bytes(source_path(header.file, roots)))
            except (OSError, Quarantine):
                continue  # stage 02 reads it again and names what is wrong
            if pixels in seen:
                dropped[header.file] = "duplicate_image"
            seen.add(pixels)
    return replace(part, verdict=replace(part.verdict, dropped=dropped))


def _tabulate_study(
    members: Sequence[InstanceHeader],
    base: Row,
    pseudonyms: Pseudonyms,
    suspects: Suspects,
    classify: Classify,
    roots: Sequence[Path],
) -> tuple[list[Row], list[Row]]:
    """Series rows and instance rows of one study; `leaves_series` marks files dropped one by one."""
    several = len({header.raw_patient_id for header in members}) > 1
    rows: list[Row] = []
    instances: list[Row] = []
    for series_uid, files in _grouped(members, lambda header: header.series_uid).items():
        checks = (
            (several, "several_patients"),
            (series_uid in suspects.conflicts, "conflicting_duplicates"),
            (series_uid in suspects.split_series, "series_in_several_studies"),
        )
        refused = next((name for found, name in checks if found), None)
        for part in _parts(files, suspects, classify, roots):
            series_id = pseudonyms.series_id(part_uid(series_uid, part.key))
            series_base = base | {"series_id": series_id, "part": part.key}
            verdict = replace(part.verdict, reason=part.verdict.reason or refused)
            copies = {
                header.file: suspects.copies[header.file] for header in part.members if header.file in suspects.copies
            }
            dropped = copies | verdict.dropped
            rows.append(_series_row(part.members, len(part.members) - len(dropped), verdict, series_base))
            for header in part.members:
                reason = dropped.get(header.file, verdict.reason)
                row = _instance_row(header, pseudonyms.instance_id(header.sop_instance_uid), reason, series_base)
                instances.append(row | {"leaves_series": header.file in dropped})
    return rows, instances


def build_inventory(
    headers: Sequence[InstanceHeader],
    pseudonyms: Pseudonyms,
    *,
    roots: Sequence[Path],
    shard: str,
    suspects: Suspects,
    classify: Classify,
) -> Inventory:
    """Group the headers of one shard, in order of path, into series and studies and classify them.

    A series is what shares a Study and a Series Instance UID, or a part of it where that is really several.
    """
    studies = _grouped(headers, lambda header: header.study_uid)
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
        rows, instances = _tabulate_study(members, base, pseudonyms, suspects, classify, roots)
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
        instance_rows += [
            {name: value for name, value in row.items() if name not in ("leaves_series", "part")} for row in instances
        ]
        series_rows += rows
        study_rows.append(_study_row(study_uid, members, rows, base["shard"], key))
    return Inventory(
        instances=manifest_frame(instance_rows, "index_instances").sort("study_id", "series_id", "instance_id", "file"),
        series=manifest_frame(series_rows, "index_series").sort("study_id", "series_id"),
        studies=manifest_frame(study_rows, "index_studies").sort("study_id"),
        quarantine=quarantine_frame(quarantine),
    )


def files_without_study(rows: pl.DataFrame) -> pl.DataFrame:
    """Quarantine rows of files that belong to no study: unreadable, or without a UID, naming the first that is missing."""
    uids = ("series_uid", "study_uid", "sop_instance_uid", "sop_class_uid")
    missing = pl.coalesce(pl.when(pl.col(name) == "").then(pl.lit(f"missing_{name}")) for name in uids)
    reason = pl.when(pl.col("state") == HEADER).then(missing).otherwise(pl.col("state"))
    lost = rows.filter(~pl.col("state").is_in(NO_DICOM)).select("source", reason=reason)
    return quarantine_frame([_quarantined("file", None, None, source, reason) for source, reason in lost.iter_rows()])


def other_files(rows: pl.DataFrame) -> pl.DataFrame:
    """What lies beside the DICOM files, with its kind: media directories, texts, pictures, viewers; no error."""
    found = rows.filter(pl.col("state").is_in(NO_DICOM) & (pl.col("state") != ARCHIVE))
    return found.select(file="source", kind="state").sort("file")


def quarantine_frame(rows: list[Row]) -> pl.DataFrame:
    """The table of what is set aside, sorted."""
    return sort_quarantine(manifest_frame(rows, "index_quarantine"))


def sort_quarantine(frame: pl.DataFrame) -> pl.DataFrame:
    """By level, then study, series and item."""
    return frame.sort("level", "study_id", "series_id", "item", "reason", nulls_last=True)


def _quarantined(level: str, study_id: str | None, series_id: str | None, item: str | None, reason: str | None) -> Row:
    return {"level": level, "study_id": study_id, "series_id": series_id, "item": item, "reason": reason}
