"""Build the whole hospital: plan the studies, make each in a process of its own, write the tables."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from glint.core.atomic import atomic_directory
from glint.core.config.demo import DemoConfig
from glint.core.errors import InputError
from glint.core.parallel import parallel_map
from glint.core.provenance import sha256_bytes
from glint.core.seeds import generator
from glint.demo.catalogue import FINDINGS, patient_of
from glint.demo.headers import study_header, uid
from glint.demo.patient import SyntheticStudy, synthesise
from glint.demo.people import Patient, Visitation, make_patient, make_visitation
from glint.demo.radiologist import Report, write_report
from glint.demo.series import WrittenSeries, write_dose_report, write_scout, write_volume
from glint.demo.truth import write_truth

VERSION = 1
REPORT_COLUMNS = ("accession_number", "patient_id", "patient_name", "study_date", "report")
_DEFECT_BASE = 90000
_WITHOUT_TRUTH = ("missing_slice", "truncated_file", "one_slice", "tilted")
_DEFECTS = ("no_report", *_WITHOUT_TRUTH, "shared_accession", "shared_accession")


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


def _identities(study_uid: str, planted: list[tuple[str, str]], where: str) -> list[dict[str, str]]:
    return [
        {"kind": kind, "value": value, "study_uid": study_uid, "where": where} for kind, value in dict.fromkeys(planted)
    ]


def _folder(patient: Patient, visit: Visitation, number: int) -> str:
    """A study's folder as a file clerk names it."""
    if number % 3 == 0:
        return f"dicom/{patient.surname}_{patient.given}_{patient.mrn}/{visit.study_date:%Y-%m-%d}_CT"
    if number % 3 == 1:
        return f"dicom/{patient.mrn}/{visit.accession}"
    return f"dicom/{patient.surname.upper()}/{visit.study_date:%Y%m%d}_{visit.accession}"


def _visitation(seed: int, number: int, patient: Patient, defect: str | None) -> Visitation:
    """The visit of a study; the two that share an accession number both take the first one's."""
    visit = make_visitation(seed, number, patient)
    if defect != "shared_accession":
        return visit
    first = _DEFECT_BASE + _DEFECTS.index("shared_accession")
    shared = make_visitation(seed, first, make_patient(seed, first)).accession
    return Visitation(**{**visit.__dict__, "accession": shared})


def _dictate(
    config: DemoConfig, study: SyntheticStudy, patient: Patient, visit: Visitation
) -> tuple[Report, dict[str, str]]:
    seed, number = config.seed, study.number
    prior: date | None = None
    if number != study.patient_number:
        prior = make_visitation(seed, study.patient_number, patient).study_date
    report = write_report(seed, number, config, patient, visit, study.findings, study.contrast, prior)
    values = (visit.accession, patient.mrn, patient.dicom_name, f"{visit.study_date:%Y%m%d}", report.text)
    return report, dict(zip(REPORT_COLUMNS, values, strict=True))


def make_study(order: Order) -> Made:
    """Synthesise, dictate and write one study under `order.root`."""
    config, seed, number = order.config, order.config.seed, order.number
    patient = make_patient(seed, patient_of(seed, number, config))
    visit = _visitation(seed, number, patient, order.defect)
    study = synthesise(seed, number, config)
    rng = generator(seed, "archive", number)
    header = study_header(seed, number, patient, visit, study.scan, study.contrast)
    folder = _folder(patient, visit, number)
    compressed, scouted, dosed, dose_text = rng.random(4) < (
        config.compressed_fraction,
        config.scout_fraction,
        config.dose_report_fraction,
        0.5,
    )
    series = [
        write_volume(
            order.root,
            f"{folder}/{'CT_THORAX' if number % 2 else 'SER00002'}",
            seed,
            number,
            header,
            patient,
            study.scan,
            study.volume_hu_ZYX,
            rng,
            bool(compressed),
            order.defect,
        )
    ]
    if scouted and order.defect is None:
        scout = write_scout(order.root, f"{folder}/SER00001", seed, number, header, study.scan, study.volume_hu_ZYX)
        series.append(scout)
    if dosed and order.defect is None:
        dose = write_dose_report(order.root, f"{folder}/SER00501", seed, number, header, patient, bool(dose_text))
        series.append(dose)
    has_truth = order.defect not in _WITHOUT_TRUTH
    if has_truth:
        write_truth(order.root / "truth" / f"{header.study_uid}.nii.gz", study.masks, study.scan)
    report, row = _dictate(config, study, patient, visit)
    with_report = order.defect != "no_report"
    dictated = report if with_report else None
    return Made(
        number=number,
        study_uid=header.study_uid,
        patient_number=study.patient_number,
        defect=order.defect,
        findings=tuple(study.masks),
        has_truth=has_truth,
        num_files=sum(len(one.files) for one in series),
        report=row if with_report else None,
        identities=tuple(_planted(header.study_uid, header.planted, series, folder, row, dictated)),
    )


def _planted(
    study_uid: str,
    planted: list[tuple[str, str]],
    series: list[WrittenSeries],
    folder: str,
    row: dict[str, str],
    report: Report | None,
) -> list[dict[str, str]]:
    """Every identity of a study and the file that holds it."""
    found = _identities(study_uid, planted + series[0].planted, series[0].files[0])
    for one in series[1:]:
        found += _identities(study_uid, one.planted, one.files[0])
    names = [("path", part) for part in folder.split("/")[1:]]
    found += _identities(study_uid, names, series[0].files[0])
    if report is not None:
        columns = [
            ("accession", row["accession_number"]),
            ("patient_id", row["patient_id"]),
            ("patient_name", row["patient_name"]),
            ("study_date", row["study_date"]),
        ]
        found += _identities(study_uid, columns + report.planted, "reports.csv")
    return found


def _orphan_report(config: DemoConfig) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A report whose study never reached the archive."""
    number = _DEFECT_BASE + len(_DEFECTS)
    patient = make_patient(config.seed, number)
    visit = make_visitation(config.seed, number, patient)
    report = write_report(config.seed, number, config, patient, visit, (), False, None)
    values = (visit.accession, patient.mrn, patient.dicom_name, f"{visit.study_date:%Y%m%d}", report.text)
    row = dict(zip(REPORT_COLUMNS, values, strict=True))
    columns = [("accession", visit.accession), ("patient_id", patient.mrn), ("patient_name", patient.dicom_name)]
    return row, _identities(uid(config.seed, "study", number), columns + report.planted, "reports.csv")


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tables(root: Path, config: DemoConfig, made: list[Made]) -> dict[str, Any]:
    """Write report table, identities, labels and summary; returns the summary."""
    reports = [one.report for one in made if one.report is not None]
    identities = [entry for one in made for entry in one.identities]
    if config.defects:
        row, entries = _orphan_report(config)
        reports.append(row)
        identities += entries
    order = generator(config.seed, "table").permutation(len(reports))
    _write_table(root / "reports.csv", REPORT_COLUMNS, [reports[int(i)] for i in order])
    _write_json(root / "identities.json", identities)
    labels = [{"study_uid": one.study_uid, "findings": " ".join(one.findings)} for one in made if one.has_truth]
    _write_table(root / "truth" / "labels.csv", ("study_uid", "findings"), labels)
    _write_json(root / "truth" / "findings.json", {str(bit): name for bit, name in enumerate(FINDINGS)})
    whole = [one for one in made if one.defect is None]
    summary = {
        "version": VERSION,
        "seed": config.seed,
        "studies": len(whole),
        "patients": len({one.patient_number for one in whole}),
        "normal_studies": sum(not one.findings for one in whole),
        "findings": {name: sum(name in one.findings for one in whole) for name in FINDINGS},
        "reports": len(reports),
        "dicom_files": sum(one.num_files for one in made),
        "defects": {f"{one.defect}/{one.number}": one.study_uid for one in made if one.defect is not None},
        "config": config.model_dump(mode="json"),
    }
    _write_json(root / "summary.json", summary)
    _write_key(root / "deid.key", config.seed)
    return summary


def _write_key(path: Path, seed: int) -> None:
    """The demo's de-identification key follows from its seed, so that every run gives the same pseudonyms.

    It protects nobody: the patients are made up. A site's own key is random and lies elsewhere.
    """
    path.write_text(sha256_bytes(f"glint demo key {seed}".encode()) + "\n", encoding="ascii")
    path.chmod(0o600)


def build_hospital(out: Path, config: DemoConfig, *, workers: int) -> dict[str, Any]:
    """Write the hospital to `out` (mode 0700), whole or not at all, and return its summary.

    Makes dicom/, reports.csv, identities.json, truth/, deid.key and summary.json. The bytes depend on `config` alone,
    never on the number of workers.

    Raises:
        InputError: `out` holds something that is no demo.
    """
    foreign = out.exists() and not (out / "identities.json").is_file()
    if foreign and (out.is_file() or any(entry.is_file() for entry in out.rglob("*"))):
        raise InputError(f"{out}: exists and is no earlier demo; choose another folder for --out, or remove it")
    with atomic_directory(out) as root:
        root.chmod(0o700)
        (root / "truth").mkdir()
        orders = [Order(root=root, config=config, number=number, defect=None) for number in range(config.studies)]
        if config.defects:
            orders += [
                Order(root=root, config=config, number=_DEFECT_BASE + place, defect=kind)
                for place, kind in enumerate(_DEFECTS)
            ]
        made = parallel_map(make_study, orders, workers=workers, description="demo studies")
        summary = _write_tables(root, config, made)
    return summary
