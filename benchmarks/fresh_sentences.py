# ruff: noqa: SIM905, RUF005
"""A second set of sentences and names for `deidentify_text.py`, written after the detector was tuned on the first."""

from __future__ import annotations

import random
from datetime import date, timedelta

from planted_identities import Plant, written_date

FAMILY = (
    "Achterberg Bielawski Carrasco Dunleavy Emmerich Faulkner Grimshaw Halvorsen Iyer Jovanovic Kirkpatrick Lombardi "
    "Mwangi Nieminen Osterhagen Petrov Rutherford Stavros Tanaka Usman Villanueva Wetherby Yilmaz Zapata Best Park Lane "
    "Black Green Brook Wood Bell Cook Rice Winter Snow O'Malley Ó Briain Le Goff Dos Santos Pérez-Reverte Győri Æbelø"
).replace("Ó Briain", "Ó_Briain").replace("Le Goff", "Le_Goff").replace("Dos Santos", "Dos_Santos").split()  # fmt: skip
GIVEN = "Agnes Benoît Chidi Deborah Emil Farida Gustav Hana Ivo Jasmine Kofi Leila Matteo Nadia Otto Paloma Summer Dawn Bill".split()
SENTENCES = {
    "name: doctor": "Dr. @ was paged.|I spoke to Dr @ regarding the above.|Sent by Dr. @.|Thank you, Dr. @, for this referral."
    "|Case shown at conference to Prof. @.|Dr. @'s office was contacted.|Follow-up with Dr. @ is advised.",
    "name: staff": "Verbal report given to @, RN.|The result was relayed to @ (charge nurse).|Message left with @.|Discussed by phone with @."
    "|Findings were conveyed to nurse @.|@, MD, was made aware.|Results reported to @ in the ICU.",
    "name: signature": "Approved by: @|Finalized by @|Interpreting physician: @, MD|Radiologist: @|Author: @|Verified by @ MD|Supervising physician: @"
    "|Typed by: @|Electronically approved by @|Reading radiologist: @ DO",
    "name: patient, relative": "Patient Name: @|Pt name: @|Accompanied by his brother @.|Patient's mother @ consented.|Mrs. @ was cooperative."
    "|Subject: @|Mr @ could not hold his breath.",
    "date": "There is interval change since @.|Compared with radiographs from @.|@: CT chest.|Status post lobectomy (@).|Follow-up of @ study."
    "|Admitted @, discharged later.|Date of service: @|Dictated: @|Two prior exams, the last @, were reviewed.",
    "phone": "Contact: @|My direct line is @.|Cell @|Reading room: @|Please dial @.|Telephone number @",
    "record number": "Medical Record #: @|MRN#@|Pt. ID @|Chart no: @|UHID: @|Record number: @|Hosp no @",
    "accession": "Accession No.: @|ACC: @|Exam #@|Study ID: @|Requisition number @|Report no. @",
    "address": "Resides at @.|@\nTelephone on file.|Mail to: @|Home: @",
    "e-mail, url": "Contact @ for details.|Sent to @.|Available at @.",
    "time": "Communicated at @.|Exam time: @|Paged at @, answered later.|Preliminary read @.",
    "institution": "Referred from @.|Compared with CT from @.|Prior treatment at @.|Patient of @.",
}

# Written after everything was mended, measured once, and left alone since.
BLIND = {
    "name: doctor": "Dr. @ requested a callback.|Reviewed at the bedside by Dr. @.|Please fax to Dr @.|Findings paged to Prof. @ today.|Clinical question from Dr. @: nodule?",
    "name: staff": "Report called in to @, RN, at the desk.|Attempted to reach @ twice.|Read back by @ RN.|Communicated to @ (resident).|Result acknowledged by @.",
    "name: signature": "Final report by: @|Dictating physician: @|Attending MD: @|Staff radiologist: @, M.D.|Released by @|Report electronically verified by @|Preliminary read: @",
    "name: patient, relative": "Patient: @|Miss @ was in pain.|Lives with his sister @.|Pt. @ arrived by ambulance.|Daughter @ provided history.|Patient name is @.",
    "date": "Baseline study of @.|Since @ the nodule has grown.|Imaged @ and again today.|PET/CT (@) showed uptake.|Date of exam: @|Diagnosed @.|Next appointment @.",
    "phone": "Call back number: @.|Reachable under @.|Ph. @|Office: @|Phone number is @.|T: @",
    "record number": "MRN is @.|Medical record no @|Patient no. @|Hospital number: @|File number @|Pat. ID: @",
    "accession": "Accession #: @|Order number @|Study number: @|Exam ID @|Acc. no. @|Lab specimen #@",
    "address": "Current address: @.|Moved to @ last year.|Patient lives at @|Deliver to @.",
    "e-mail, url": "Email: @|Reply to @ please.|Portal: @|Upload at @.",
    "time": "Discussed at @ today.|Injection at @.|Start @|Result called @ by phone.|Between @ and later.",
    "institution": "Seen previously at @.|Imported from @.|Transferred to @ for surgery.|@ study reviewed.",
}


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def _name(rng: random.Random) -> str:
    family, given = rng.choice(FAMILY).replace("_", " "), rng.choice(GIVEN)
    text = rng.choice((f"{given} {family}", f"{given} {family}", f"{given[0]}. {family}", f"{family}, {given}"))
    return text.upper() if rng.random() < 0.2 else text


def _value(rng: random.Random, label: str) -> str:
    d = _digits
    if label.startswith("name: doctor"):
        return rng.choice((rng.choice(FAMILY).replace("_", " "), _name(rng)))
    if label.startswith("name"):
        return _name(rng)
    if label == "date":
        return written_date(rng, date(2012, 1, 1) + timedelta(days=rng.randrange(4500)))[0]
    values = {
        "phone": (
            f"({d(rng, 3)}) {d(rng, 3)}-{d(rng, 4)}",
            f"{d(rng, 3)}/{d(rng, 3)}-{d(rng, 4)}",
            f"{d(rng, 3)}.{d(rng, 3)}.{d(rng, 4)} ext 12",
        )
        + (f"+49 {d(rng, 3)} {d(rng, 7)}", f"0{d(rng, 4)} {d(rng, 6)}", f"{d(rng, 10)}"),
        "record number": (
            d(rng, 6),
            f"{d(rng, 3)}-{d(rng, 3)}-{d(rng, 2)}",
            f"A{d(rng, 5)}B",
            f"0{d(rng, 5)}",
            f"{d(rng, 2)}/{d(rng, 5)}",
        ),
        "accession": (
            d(rng, 8),
            f"RAD-{d(rng, 6)}",
            f"{d(rng, 4)}.{d(rng, 5)}",
            f"XR{d(rng, 7)}",
            f"{d(rng, 2)}CT{d(rng, 5)}",
        ),
        "address": (
            f"{d(rng, 3)} Willow Creek Road",
            f"{d(rng, 4)} W Larkspur Ave, Unit 3",
            f"{d(rng, 2)} Station Parade, York YO1 7HH",
        )
        + (f"PO Box {d(rng, 3)}", f"{d(rng, 4)} 5th Avenue", f"Lindenweg {d(rng, 2)}"),
        "e-mail, url": (
            f"rad{d(rng, 2)}@clinic-net.edu",
            f"desk.{d(rng, 2)}@ct.example.info",
            f"https://img.example.org/{d(rng, 6)}/view",
        ),
        "time": (
            f"{rng.randrange(24)}:{rng.randrange(10, 60)}",
            f"{rng.randrange(1, 12)}:15 a.m.",
            f"{rng.randrange(1, 12)} PM",
            "1645 hrs",
            "0905h",
        )
        + ("09.45 am", "12:10:33 PM", "12:00 noon"),
        "institution": (
            "Harrow Bridge Hospital",
            "St. Edith's Medical Centre",
            "Oakmere Clinic",
            "Westhaven Regional Hospital",
        ),
    }
    return rng.choice(values[label])


def fresh_plants(rng: random.Random, count: int, *, blind: bool = False) -> list[Plant]:
    """`count` identifiers of different classes, none of them in the header."""
    plants = []
    sentences, prefix = (BLIND, "blind") if blind else (SENTENCES, "fresh")
    for label in rng.sample(sorted(sentences), k=count):
        before, after = rng.choice(sentences[label].split("|")).split("@")
        where = "bottom" if "signature" in label else rng.choice(("top", "inside"))
        plants.append(Plant(f"{prefix}: {label}", before, _value(rng, label), after, where))
    return plants
