"""A film study of the hospital, from the patient to the files and the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from glint.core.seeds import generator
from glint.demo.film_patient import FIRST_FILM_STUDY, pose
from glint.demo.film_phrases import FILM
from glint.demo.film_series import write_film, write_film_truth
from glint.demo.headers import study_header
from glint.demo.orders import (
    DEFECT_BASE,
    SHARED_ACCESSION,
    Made,
    Order,
    folder_of,
    planted_by,
    prior_date,
    report_row,
    visitation_of,
)
from glint.demo.people import make_patient
from glint.demo.radiologist import write_report

FILM_DEFECTS = ("no_report", "truncated_file", "for_processing", SHARED_ACCESSION, SHARED_ACCESSION)
_WITHOUT_TRUTH = ("truncated_file", "for_processing")
_TECHNIQUE = {"PA": "PA view", "AP": "portable AP view"}


def make_film_study(order: Order) -> Made:
    """Pose, expose, dictate and write one film study under `order.root`."""
    config, seed, number = order.config, order.config.seed, order.number
    study = pose(seed, number, config)
    patient = make_patient(seed, study.patient_number)
    first = FIRST_FILM_STUDY + DEFECT_BASE + FILM_DEFECTS.index(SHARED_ACCESSION)
    visit = visitation_of(seed, number, patient, accession_of=first if order.defect == SHARED_ACCESSION else None)
    repeated = number - FIRST_FILM_STUDY != study.patient_number
    prior = prior_date(seed, FIRST_FILM_STUDY + study.patient_number if repeated else None, patient)
    if prior is not None and visit.study_date <= prior:
        visit = replace(visit, study_date=prior + timedelta(days=30))
    rng = generator(seed, "archive", number)
    header = study_header(
        seed, number, patient, visit, modality="DX", described="XR CHEST", procedure="Chest radiograph"
    )
    folder = folder_of(patient, visit, number, "CXR")
    views = [study.view, *(["LL"] if study.has_lateral else [])]
    films = [
        write_film(order.root, folder, seed, study, header, patient, visit, rng, view, place, defect=order.defect)
        for place, view in enumerate(views)
    ]
    has_truth = order.defect not in _WITHOUT_TRUTH
    for film in films if has_truth else ():
        write_film_truth(order.root / "truth", film)
    how = "PA and lateral views" if study.has_lateral else _TECHNIQUE[study.view]
    report = write_report(seed, number, config, patient, visit, study.findings, how, prior, FILM)
    row = report_row(report, patient, visit)
    dictated = None if order.defect == "no_report" else report
    files = [(film.file, film.planted) for film in films]
    files[0] = (files[0][0], header.planted + files[0][1])
    return Made(
        number=number,
        study_uid=header.study_uid,
        patient_number=study.patient_number,
        defect=order.defect,
        findings=tuple(study.masks),
        has_truth=has_truth,
        num_files=len(films),
        report=None if dictated is None else row,
        identities=tuple(planted_by(header.study_uid, files, folder, row, dictated)),
    )
