"""Build the whole hospital: plan the studies, make each in a process of its own, write the tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glint.core.atomic import atomic_directory
from glint.core.config.demo import DemoConfig
from glint.core.errors import InputError
from glint.core.parallel import parallel_map
from glint.core.provenance import sha256_bytes
from glint.core.seeds import generator
from glint.demo import phrases
from glint.demo.catalogue import FINDINGS, patient_of
from glint.demo.film_patient import FIRST_FILM_STUDY
from glint.demo.film_phrases import FILM
from glint.demo.film_studies import FILM_DEFECTS, make_film_study
from glint.demo.headers import scan_header, uid
from glint.demo.orders import (
    DEFECT_BASE,
    REPORT_COLUMNS,
    SHARED_ACCESSION,
    Made,
    Order,
    folder_of,
    identities_of,
    planted_by,
    prior_date,
    report_row,
    visitation_of,
)
from glint.demo.patient import SyntheticStudy, synthesise
from glint.demo.people import Patient, Visitation, make_patient, make_visitation
from glint.demo.phrases import Phrasebook
from glint.demo.radiologist import Report, write_report
from glint.demo.series import write_dose_report, write_scout, write_volume
from glint.demo.truth import write_truth

VERSION = 1
_WITHOUT_TRUTH = ("missing_slice", "truncated_file", "one_slice", "tilted")
_DEFECTS = ("no_report", *_WITHOUT_TRUTH, SHARED_ACCESSION, SHARED_ACCESSION)


def _dictate(
    config: DemoConfig, study: SyntheticStudy, patient: Patient, visit: Visitation
) -> tuple[Report, dict[str, str]]:
    seed, number = config.seed, study.number
    prior = prior_date(seed, study.patient_number if number != study.patient_number else None, patient)
    how = "with intravenous contrast" if study.contrast else "without intravenous contrast"
    report = write_report(seed, number, config, patient, visit, study.findings, how, prior)
    return report, report_row(report, patient, visit)


def make_study(order: Order) -> Made:
    """Synthesise, dictate and write one study under `order.root`."""
    config, seed, number = order.config, order.config.seed, order.number
    patient = make_patient(seed, patient_of(seed, number, config))
    first = DEFECT_BASE + _DEFECTS.index(SHARED_ACCESSION)
    visit = visitation_of(seed, number, patient, accession_of=first if order.defect == SHARED_ACCESSION else None)
    study = synthesise(seed, number, config)
    rng = generator(seed, "archive", number)
    header = scan_header(seed, number, patient, visit, study.scan, study.contrast)
    folder = folder_of(patient, visit, number, "CT")
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
    files = [(one.files[0], one.planted) for one in series]
    files[0] = (files[0][0], header.planted + files[0][1])
    return Made(
        number=number,
        study_uid=header.study_uid,
        patient_number=study.patient_number,
        defect=order.defect,
        findings=tuple(study.masks),
        has_truth=has_truth,
        num_files=sum(len(one.files) for one in series),
        report=row if with_report else None,
        identities=tuple(planted_by(header.study_uid, files, folder, row, dictated)),
    )


def _orphan_report(config: DemoConfig, kind: Kind) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A report whose study never reached the archive."""
    number = kind.first + DEFECT_BASE + len(kind.defects)
    patient = make_patient(config.seed, number)
    visit = make_visitation(config.seed, number, patient)
    report = write_report(
        config.seed, number, config, patient, visit, (), "without intravenous contrast", None, kind.book
    )
    row = report_row(report, patient, visit)
    columns = [("accession", visit.accession), ("patient_id", patient.mrn), ("patient_name", patient.dicom_name)]
    return row, identities_of(uid(config.seed, "study", number), columns + report.planted, "reports.csv")


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tables(root: Path, config: DemoConfig, made: list[Made], kind: Kind) -> dict[str, Any]:
    """Write report table, identities, labels and summary; returns the summary."""
    reports = [one.report for one in made if one.report is not None]
    identities = [entry for one in made for entry in one.identities]
    if config.defects:
        row, entries = _orphan_report(config, kind)
        reports.append(row)
        identities += entries
    order = generator(config.seed, "table").permutation(len(reports))
    _write_table(root / "reports.csv", REPORT_COLUMNS, [reports[int(i)] for i in order])
    _write_json(root / "identities.json", identities)
    labels = [{"study_uid": one.study_uid, "findings": " ".join(one.findings)} for one in made if one.has_truth]
    _write_table(root / "truth" / "study_findings.csv", ("study_uid", "findings"), labels)
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


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the hospital makes of one modality: studies numbered from `first`, broken ones, and what readers say."""

    make: Callable[[Order], Made]
    first: int
    defects: tuple[str, ...]
    book: Phrasebook
    studies: Callable[[DemoConfig], int]


KINDS = {
    "ct": Kind(make=make_study, first=0, defects=_DEFECTS, book=phrases.CT, studies=lambda config: config.studies),
    "cxr": Kind(
        make=make_film_study,
        first=FIRST_FILM_STUDY,
        defects=FILM_DEFECTS,
        book=FILM,
        studies=lambda config: config.films.studies,
    ),
}


def build_hospital(out: Path, config: DemoConfig, *, workers: int, modality: str = "ct") -> dict[str, Any]:
    """Write one modality's archive to `out` (mode 0700), whole or not at all, and return its summary.

    Makes dicom/, reports.csv, identities.json, truth/, deid.key and summary.json. The bytes depend on `config` and
    `modality` alone, never on the number of workers. All modalities of one seed share their patients and the key.

    Raises:
        InputError: `out` holds something that is no demo.
    """
    kind = KINDS[modality]
    foreign = out.exists() and not (out / "identities.json").is_file()
    if foreign and (out.is_file() or any(entry.is_file() for entry in out.rglob("*"))):
        raise InputError(f"{out}: exists and is no earlier demo; choose another folder for --out, or remove it")
    with atomic_directory(out) as root:
        root.chmod(0o700)
        (root / "truth").mkdir()
        numbers: list[tuple[int, str | None]] = [(number, None) for number in range(kind.studies(config))]
        if config.defects:
            numbers += [(DEFECT_BASE + place, defect) for place, defect in enumerate(kind.defects)]
        orders = [
            Order(root=root, config=config, number=kind.first + number, defect=defect) for number, defect in numbers
        ]
        made = parallel_map(kind.make, orders, workers=workers, description="demo studies")
        summary = _write_tables(root, config, made, kind)
    return summary
