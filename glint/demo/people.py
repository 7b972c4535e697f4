"""Patients and staff who never lived: made-up names, numbers, addresses and dates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from glint.core.seeds import generator
from glint.demo.names import GIVEN_FEMALE, GIVEN_MALE, HOSPITALS, STREETS, SURNAMES, TOWNS


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One patient as the front desk knows them. Dates are dates; everything else is text as it is typed."""

    number: int
    surname: str
    given: str
    sex: str
    mrn: str
    other_id: str
    birth: date
    address: str
    phone: str

    @property
    def dicom_name(self) -> str:
        """Family and given name as DICOM writes them (PS3.5 6.2.1)."""
        return f"{self.surname.upper()}^{self.given.upper()}"


@dataclass(frozen=True, kw_only=True)
class Visitation:
    """One visit: who saw the patient, where, when, under which number."""

    study_date: date
    time: str
    accession: str
    referring: str
    reader: str
    operator: str
    institution: str
    order_number: str
    study_id: str


def make_patient(seed: int, number: int) -> Patient:
    """Patient `number`; surname and given name together are unique up to 1,560 patients of a sex."""
    rng = generator(seed, "person", number)
    sex = "F" if rng.random() < 0.5 else "M"
    given = GIVEN_FEMALE if sex == "F" else GIVEN_MALE
    shuffled = generator(seed, "surnames").permutation(len(SURNAMES))
    return Patient(
        number=number,
        surname=SURNAMES[int(shuffled[number % len(SURNAMES)])],
        given=given[(number // len(SURNAMES) + int(rng.integers(len(given)))) % len(given)],
        sex=sex,
        mrn=_unique_number(rng, number, 5),
        other_id=f"VX{_unique_number(rng, number, 4)}",
        birth=date(1932, 1, 1) + timedelta(days=int(rng.integers(0, 62 * 365))),
        address=f"{int(rng.integers(11, 980))} {_one(rng, STREETS)}, {_one(rng, TOWNS)}",
        phone=f"555-{int(rng.integers(200, 999))}-{int(rng.integers(1000, 9999))}",
    )


def make_visitation(seed: int, number: int, patient: Patient) -> Visitation:
    """The visit of study `number`; a second visit comes after the first."""
    rng = generator(seed, "visit", number)
    first = date(2012, 1, 1) + timedelta(days=int(generator(seed, "calendar", patient.number).integers(0, 2500)))
    later = 0 if number == patient.number else int(rng.integers(60, 700))
    staff = generator(seed, "staff").permutation(len(SURNAMES))
    names = [SURNAMES[int(staff[i])] for i in range(14)]
    moment = f"{int(rng.integers(7, 20)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}"
    return Visitation(
        study_date=first + timedelta(days=later),
        time=moment,
        accession=f"A{_unique_number(rng, number, 4)}",
        referring=f"{_one(rng, names[:6])}^{_one(rng, GIVEN_MALE)}",
        reader=_one(rng, names[6:11]),
        operator=f"{_one(rng, names[11:])}^{_one(rng, GIVEN_FEMALE)}",
        institution=_one(rng, HOSPITALS),
        order_number=f"ORD{_unique_number(rng, number, 5)}",
        study_id=f"S{_unique_number(rng, number, 3)}",
    )


def _one(rng: np.random.Generator, choices: list[str] | tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _unique_number(rng: np.random.Generator, number: int, random_digits: int) -> str:
    """At least seven digits, unique by `number`, never starting with zero."""
    return f"{int(rng.integers(1, 9))}{number:05d}{int(rng.integers(10**random_digits)):0{random_digits}d}"
