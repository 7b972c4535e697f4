"""De-identify the reports of one shard with what the index knows of their studies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import InputError, Quarantine
from glint.core.ids import Pseudonyms
from glint.core.provenance import digest
from glint.formats.manifest import manifest_frame
from glint.prepare.deidentify.engine import METHOD
from glint.prepare.deidentify.text import CleanText, KnownIdentity, clean_text
from glint.prepare.deidentify.values import parse_date
from glint.prepare.deidentify.written_dates import DateShift

Row = Mapping[str, Any]


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


def _clean_report(report: Row, study: Row, pseudonyms: Pseudonyms, config: DeidentifyConfig) -> CleanText:
    # The report table's own columns hold names and numbers alike: each value is looked for as both.
    typed = report["identifiers"]
    known = KnownIdentity(
        persons=[*study["patient_names"], *study["other_persons"], *(v for v in typed if not any(map(str.isdigit, v)))],
        identifiers=[study["raw_patient_id"], study["accession"], study["study_uid"], *study["identifiers"], *typed],
        institutions=study["institutions"],
    )
    return clean_text(report["text"], known, _shift(study, pseudonyms, config))


def clean_reports(
    reports: pl.DataFrame,
    studies: pl.DataFrame,
    *,
    pseudonyms: Pseudonyms,
    config: DeidentifyConfig,
    params_digest: str,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Clean every usable report of `reports` (schema `index_reports`).

    Returns the manifest, a row per report with quarantined ones and their reason, and the audit of counts.

    Raises:
        InputError: a report's study is not in `studies`.
    """
    by_study = {row["study_id"]: row for row in studies.iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for report in reports.sort("study_id").iter_rows(named=True):
        study = by_study.get(report["study_id"])
        if study is None:
            raise InputError(f"study {report['study_id']} has a report but is not in --studies; run index again")
        reason, text, replacements = report["reason"], None, None
        if reason is None:
            try:
                cleaned = _clean_report(report, study, pseudonyms, config)
                text, replacements = cleaned.text, cleaned.replacements.total()
                kinds.update(cleaned.replacements)
            except Quarantine as quarantine:
                reason = quarantine.reason
        rows.append(
            {
                "study_id": report["study_id"],
                "status": "ok" if reason is None else "quarantined",
                "reason": reason,
                "text": text,
                "num_replacements": replacements,
                "input_digest": digest([report["text"], report["identifiers"], _identity_digest(study)]),
                "params_digest": params_digest,
            }
        )
    return manifest_frame(rows, "deidentify_reports"), _audit(rows, kinds)


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
