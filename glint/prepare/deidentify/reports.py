"""De-identify the reports of one shard with what the index knows of their studies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import InputError, Quarantine
from glint.core.ids import Pseudonyms
from glint.core.provenance import digest
from glint.formats.manifest import manifest_frame
from glint.prepare.deidentify.engine import METHOD
from glint.prepare.deidentify.readable import readable
from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.text import CleanText, FindNames, KnownIdentity, clean_text
from glint.prepare.deidentify.values import parse_date
from glint.prepare.deidentify.written_dates import DateShift

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CleanReports:
    """One shard's reports.

    Args:
        manifest: A row per report (schema `deidentify_reports`), quarantined ones with their reason.
        audit: Counts.
        original_spans: Where each replaced stretch stood (schema `report_spans`): restricted, it tells the lengths.
    """

    manifest: pl.DataFrame
    audit: dict[str, Any]
    original_spans: pl.DataFrame


def _shift(study: Row, pseudonyms: Pseudonyms, config: DeidentifyConfig) -> DateShift:
    """The same days as in the study's DICOM headers."""
    dates = [parsed for text in study["study_dates"] if (parsed := parse_date(text))]
    births = [parsed for text in study["birth_dates"] if (parsed := parse_date(text))]
    return DateShift(
        days=pseudonyms.date_shift_days(study["patient_key"]),
        study_date=min(dates) if dates else None,
        birth_dates=frozenset(births),
        day_first=config.day_first,
    )


def _clean_report(
    report: Row, study: Row, pseudonyms: Pseudonyms, config: DeidentifyConfig, find_names: FindNames | None
) -> CleanText:
    # The report table's own columns hold names and numbers alike: each value is looked for as both.
    typed = report["identifiers"]
    known = KnownIdentity(
        persons=[*study["patient_names"], *study["other_persons"], *(v for v in typed if not any(map(str.isdigit, v)))],
        identifiers=[study["raw_patient_id"], study["accession"], study["study_uid"], *study["identifiers"], *typed],
        institutions=study["institutions"],
    )
    return clean_text(readable(report["text"]), known, _shift(study, pseudonyms, config), find_names)


def clean_reports(
    reports: pl.DataFrame,
    studies: pl.DataFrame,
    *,
    pseudonyms: Pseudonyms,
    config: DeidentifyConfig,
    params_digest: str,
    find_names: FindNames | None = None,
) -> CleanReports:
    """Clean every usable report of `reports` (schema `index_reports`).

    Args:
        find_names: An optional recognizer of names, asked after the rules.

    Raises:
        InputError: a report's study is not in `studies`.
    """
    by_study = {row["study_id"]: row for row in studies.iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    originals: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for report in reports.sort("study_id").iter_rows(named=True):
        study = by_study.get(report["study_id"])
        if study is None:
            raise InputError(f"study {report['study_id']} has a report but is not in --studies; run index again")
        reason, text, replaced = report["reason"], None, None
        if reason is None:
            try:
                cleaned = _clean_report(report, study, pseudonyms, config, find_names)
                text, replaced = cleaned.text, [_place(span) for span in cleaned.replaced]
                kinds.update(span.kind for span in cleaned.spans)
                originals += [{"study_id": report["study_id"], **_place(span)} for span in cleaned.spans]
            except Quarantine as quarantine:
                reason = quarantine.reason
        rows.append(
            {
                "study_id": report["study_id"],
                "status": "ok" if reason is None else "quarantined",
                "reason": reason,
                "text": text,
                "num_replacements": None if replaced is None else len(replaced),
                "replacements": replaced,
                "input_digest": digest([report["text"], report["identifiers"], _identity_digest(study)]),
                "params_digest": params_digest,
            }
        )
    return CleanReports(
        manifest=manifest_frame(rows, "deidentify_reports"),
        audit=_audit(rows, kinds),
        original_spans=manifest_frame(originals, "report_spans"),
    )


def _place(span: Span) -> dict[str, Any]:
    return {"kind": span.kind, "start": span.start, "end": span.end}


def _identity_digest(study: Row) -> str:
    """Digest of what is known of a study; the number of its slices does not matter to its report."""
    columns = ("patient_key", "accession", "patient_names", "other_persons", "identifiers", "institutions")
    return digest([study[name] for name in (*columns, "birth_dates", "study_dates")])


def _audit(rows: Sequence[Row], kinds: Counter[str]) -> dict[str, Any]:
    return {
        "method": METHOD,
        "reports": len(rows),
        "reports_ok": sum(row["status"] == "ok" for row in rows),
        "quarantined": dict(sorted(Counter(row["reason"] for row in rows if row["reason"]).items())),
        "replacements": kinds.total(),
        "replacements_by_kind": dict(sorted(kinds.items())),
    }
