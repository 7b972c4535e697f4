"""What the hospital's archive asks for and gets back, whatever machine makes the study."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from glint.core.config.demo import DemoConfig
from glint.demo.people import Patient, Visitation, make_patient, make_visitation
from glint.demo.radiologist import Report

REPORT_COLUMNS = ("accession_number", "patient_id", "patient_name", "study_date", "report")
DEFECT_BASE = 90000
SHARED_ACCESSION = "shared_accession"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One study to be made under a folder; defect names what is wrong with it, None for a whole study."""

    root: Path
    config: DemoConfig
    number: int
    defect: str | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one study left behind. report is a row of the table, or None; identities say which file holds them."""

    number: int
    study_uid: str
    patient_number: int
    defect: str | None
    findings: tuple[str, ...]
    has_truth: bool
    num_files: int
    report: dict[str, str] | None
    identities: tuple[dict[str, str], ...]


def identities_of(study_uid: str, planted: list[tuple[str, str]], where: str) -> list[dict[str, str]]:
    """Each planted (kind, value) once, with the file that holds it."""
    return [
        {"kind": kind, "value": value, "study_uid": study_uid, "where": where} for kind, value in dict.fromkeys(planted)
    ]


def folder_of(patient: Patient, visit: Visitation, number: int, kind: str) -> str:
    """A study's folder as a file clerk names it; `kind` ends some: CT, CXR."""
    if number % 3 == 0:
        return f"dicom/{patient.surname}_{patient.given}_{patient.mrn}/{visit.study_date:%Y-%m-%d}_{kind}"
    if number % 3 == 1:
        return f"dicom/{patient.mrn}/{visit.accession}"
    return f"dicom/{patient.surname.upper()}/{visit.study_date:%Y%m%d}_{visit.accession}"


def visitation_of(seed: int, number: int, patient: Patient, *, accession_of: int | None) -> Visitation:
    """The visit of a study, filed under the accession number of study `accession_of` where a clerk mixed them up."""
    visit = make_visitation(seed, number, patient)
    if accession_of is None:
        return visit
    shared = make_visitation(seed, accession_of, make_patient(seed, accession_of)).accession
    return Visitation(**{**visit.__dict__, "accession": shared})


def report_row(report: Report, patient: Patient, visit: Visitation) -> dict[str, str]:
    """A report as the table holds it."""
    values = (visit.accession, patient.mrn, patient.dicom_name, f"{visit.study_date:%Y%m%d}", report.text)
    return dict(zip(REPORT_COLUMNS, values, strict=True))


def planted_by(
    study_uid: str,
    files: list[tuple[str, list[tuple[str, str]]]],
    folder: str,
    row: dict[str, str],
    report: Report | None,
) -> list[dict[str, str]]:
    """Every identity of a study and the file that holds it; `files` are (name, what is planted in it)."""
    found = [entry for name, planted in files for entry in identities_of(study_uid, planted, name)]
    names = [("path", part) for part in folder.split("/")[1:]]
    found += identities_of(study_uid, names, files[0][0])
    if report is not None:
        columns = [
            ("accession", row["accession_number"]),
            ("patient_id", row["patient_id"]),
            ("patient_name", row["patient_name"]),
            ("study_date", row["study_date"]),
        ]
        found += identities_of(study_uid, columns + report.planted, "reports.csv")
    return found


def prior_date(seed: int, prior_number: int | None, patient: Patient) -> date | None:
    """The day of an earlier study of the patient, or None."""
    return None if prior_number is None else make_visitation(seed, prior_number, patient).study_date
