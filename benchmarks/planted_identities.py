# ruff: noqa: SIM905, RUF005
"""Invented identities and the sentences people write them in, for `deidentify_text.py`.

Written without a look at the detector: names, forms and templates share no list with it. Everything from one seed.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta

PLAIN = (
    "Okonkwo Vasquez Trevelyan Adeyemi Bhattacharya Castellanos Whitcombe Eberhardt Farquharson Guthrie Haverford "
    "Ibrahimovic Jankowski Kowalczyk Lindqvist Montgomery Nakamura Oppenheim Pemberton Quigley Ramachandran Szymanski "
    "Thistlewood Underwood Vandermeer Wojcik Yamaguchi Zimmermann Abernathy Blackwood Crenshaw Delacroix Ellsworth"
).split()
SPECIAL = (
    "Müller Núñez Łukaszewicz Çelik Şahin Björnsson García-Lorca D'Angelo O’Connor MacLeod Abdul-Rahman Nguyễn Dvořák "
    "Oğuz Sørensen Brontë Lefèvre-Dubois Ng Wu Li Xu McKinnon DiStefano"
).split() + ["van der Meer", "de la Cruz", "St. Clair", "von Richthofen", "bin Rashid", "El Amrani", "ter Horst"]
WORDS = "Small Long Young White Rose Hill Wall Stone Short Strong Field Bone Hart Marsh Sharp Heard Cross Day".split()
WORDS += "Moody Savage Rich Woods Fields Price Case Love Moon Frost Hope Grant Church Wise Rivers Bright Noble".split()
EPONYMS = "Hampton Campbell Turner Simon Williams Harrison James Swan Kerley Hodgkin Wegener Virchow Golden".split()
GIVEN = (
    "Ngozi Ottoline Tobias Ludmila Hiroshi Anneliese Bartholomew Cordelia Dmitri Esperanza Fergus Gwendolyn Horatio "
    "Ingeborg Jörg Katarzyna Lysander Maribel Nikolai Oluwaseun Priya René Siobhan Thaddeus Ulrike Zoë Mary John Anna "
    "Robert Linda Jean-Luc Mei-Ling Rosa Will Grace Mark Joy April May June Faith Dale Jo Amy Bo"
).split()
INSTITUTIONS = (
    "Thornfield General Hospital|St. Brannoc's Infirmary|Lakeshore Imaging Associates|Universitätsklinikum Altenburg|"
    "Kestrel Valley Medical Center|Hospital San Telmo|Queen Maud Clinic|Northgate Community Hospital|Radiology West"
).split("|")
STREETS = "Maple Orchard Quarry Juniper Wellington Foxglove Harbour Tannery".split()
TOWNS = ("Indianapolis, IN 46202", "Springfield, OH 45501-1234", "Leeds LS1 4AP", "Boston MA 02115")
MONTHS = (
    "January February March April May June July August September October November December".split()
)  # fmt: skip
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


@dataclass(frozen=True)
class Plant:
    """One inserted stretch: `before` + `value` + `after`; only `value` must go (or stay, for a clinical token).

    `where` is `top`, `inside` or `bottom` of the report; `known` is true if the header holds the value.
    """

    label: str
    before: str
    value: str
    after: str
    where: str
    known: bool = False
    clinical: bool = False


@dataclass(frozen=True)
class Person:
    """A name as a header would hold it."""

    family: str
    given: str
    middle: str

    @property
    def dicom(self) -> str:
        """Family^Given^Middle."""
        return f"{self.family}^{self.given}^{self.middle}"


def person(rng: random.Random) -> Person:
    """An invented person; half of the surnames are hard ones."""
    pool = rng.choices((PLAIN, SPECIAL, WORDS, EPONYMS), weights=(5, 3, 3, 1))[0]
    return Person(rng.choice(pool), rng.choice(GIVEN), rng.choice("ABCDEFGHJKLMNPRSTVW"))


def _without_accents(text: str) -> str:
    table = str.maketrans({"Ł": "L", "ł": "l", "ø": "o", "ß": "s", "ğ": "g"})
    return "".join(c for c in unicodedata.normalize("NFKD", text.translate(table)) if not unicodedata.combining(c))


def _typo(rng: random.Random, word: str) -> str:
    if len(word) < 8 or not word.isalpha():
        return word
    at = rng.randrange(2, len(word) - 2)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    if kind == 2:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + rng.choice("aeiou") + word[at + 1 :]


def full_name(rng: random.Random, who: Person) -> str:
    """Given and family name in one of the orders and cases people use."""
    f, g, m = who.family, who.given, who.middle
    forms = (
        f"{g} {f}",
        f"{g} {m}. {f}",
        f"{f}, {g}",
        f"{f}, {g} {m}.",
        f"{f}, {g} {m}",
        f"{g[0]}. {f}",
        f"{g} {m} {f}",
    )
    text = rng.choice((*forms, f"{g} {f}"))
    return rng.choices((text, text.upper(), _without_accents(text)), weights=(6, 2, 1))[0]


def bare_name(rng: random.Random, who: Person) -> str:
    """The family name alone."""
    return rng.choices((who.family, who.family.upper(), _without_accents(who.family)), weights=(6, 2, 1))[0]


def written_date(rng: random.Random, day: date) -> tuple[str, str]:
    """`day` as someone writes it, and the name of that form."""
    month, short = MONTHS[day.month - 1], MONTHS[day.month - 1][:3]
    suffix = "th" if 10 < day.day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    weekday = WEEKDAYS[day.weekday()]
    forms = {
        "month d, yyyy": f"{month} {day.day}, {day.year}",
        "m/d/yy": f"{day.month}/{day.day}/{day:%y}",
        "mm/dd/yyyy": f"{day:%m/%d/%Y}",
        "yyyy-mm-dd": f"{day:%Y-%m-%d}",
        "dd.mm.yyyy": f"{day:%d.%m.%Y}",
        "dd.mm.yy": f"{day:%d.%m.%y}",
        "d.m.yyyy": f"{day.day}.{day.month}.{day.year}",
        "dth of mon": f"{day.day}{suffix} of {short}",
        "d month yyyy": f"{day.day} {month} {day.year}",
        "dd-mon-yyyy": f"{day:%d}-{short}-{day.year}",
        "dd-MON-yy": f"{day:%d}-{short.upper()}-{day:%y}",
        "mon yyyy": f"{short} {day.year}",
        "month of yyyy": f"{month} of {day.year}",
        "mm/yyyy": f"{day:%m/%Y}",
        "mon 'yy": f"{short} '{day:%y}",
        "weekday, month d": f"{weekday}, {month} {day.day}",
        "weekday m/d/yyyy": f"{weekday} {day.month}/{day.day}/{day.year}",
        "MONTH dth, yyyy": f"{month.upper()} {day.day}{suffix.upper()}, {day.year}",
        "yyyymmdd": f"{day:%Y%m%d}",
        "mon d yyyy": f"{short}. {day.day} {day.year}",
        "iso time": f"{day:%Y-%m-%d}T08:15:00",
        "m / d / yyyy": f"{day.month} / {day.day} / {day.year}",
        "month d": f"{month} {day.day}",
        "yyyy mon d": f"{day.year} {short} {day.day}",
        "lower month": f"{month.lower()} {day.day}, {day.year}",
        "yyyy/mm/dd": f"{day:%Y/%m/%d}",
        "dth month yyyy": f"the {day.day}{suffix} {month}, {day.year}",
    }
    name = rng.choice(sorted(forms))
    return forms[name], name


def _spot(rng: random.Random, options: str) -> tuple[str, str]:
    before, after = rng.choice(options.strip().split("\n")).strip("|").split("@")
    return before, after


DATE_SPOTS = """
Comparison is made with the study of @.
Compared to @, there is no change.
CT dated @ is reviewed.
Prior examination (@) was available.
Last seen on @ in clinic.
Stable since @.
Surgery was performed @.
Previous films from @ were used.
Biopsy on @ was benign.
"""
NAME_TOPS = """
Patient: @
PATIENT NAME: @
Name: @
Pt: @
RE: @
Patient Name - @
"""
FULL_NAME_SPOTS = """
Findings were explained to @ at the bedside.
The images of @ were reviewed.
Comparison is made with outside films of @.
@ was informed of the result.
Images are labelled @.
The patient, @, returned for follow-up.
Ms. @ tolerated the procedure well.
"""
BARE_NAME_SPOTS = """
Mr. @ tolerated the procedure well.
Mrs @ has a history of asthma.
I have informed Ms @ of the result.
Miss @ was scanned twice.
"""
DOCTOR_SPOTS = """
Discussed with Dr. @ by telephone.
Results were called to Dr @ in the emergency department.
Case reviewed with Prof. @, who agrees.
Requested by Dr. @ for cough.
Findings communicated to Drs. @ and the team.
As per Doctor @, no contrast was given.
"""
STAFF_SPOTS = """
Results were telephoned to @, RN, who read them back.
Spoke with @, NP, about these findings.
Nurse @ was notified.
Critical result given to @ MD.
Findings were discussed with @.
These findings were communicated by phone to @.
"""
SIGNATURES = """
Electronically signed by: @
Dictated by @, M.D.
Signed: @, MD
Attending Radiologist: @
Reported by @ FRCR
cc: @
Transcribed by @
Technologist: @
Referring physician: @
I, @, have personally reviewed the images.
/s/ @
Resident: @, DO
Read by: Dr. @
Ordering provider: @
"""
RELATIVE_SPOTS = """
The history was given by his wife @.
Her daughter @ was present.
Consent was signed by the mother, @.
Her husband, Mr. @, drove her home.
"""


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def unknown_plant(rng: random.Random, kind: str) -> Plant:
    """An identifier of class `kind` that no header holds."""
    who = person(rng)
    if kind == "doctor":
        value = bare_name(rng, who) if rng.random() < 0.5 else full_name(rng, who)
        return Plant("name: doctor", *_around(_spot(rng, DOCTOR_SPOTS), value), "inside")
    if kind == "staff":
        return Plant("name: staff", *_around(_spot(rng, STAFF_SPOTS), full_name(rng, who)), "inside")
    if kind == "signature":
        return Plant("name: signature, label", *_around(_spot(rng, SIGNATURES), full_name(rng, who)), "bottom")
    if kind == "relative":
        value = f"{who.given} {who.family}" if rng.random() < 0.5 else who.given
        return Plant("name: relative", *_around(_spot(rng, RELATIVE_SPOTS), value), "inside")
    if kind == "date":
        value, form = written_date(rng, date(2009, 1, 1) + timedelta(days=rng.randrange(5000)))
        return Plant(f"date: {form}", *_around(_spot(rng, DATE_SPOTS), value), "inside")
    before, value, after, where = _numbers(rng, kind, who)
    return Plant(kind, before, value, after, where)


def _around(spot: tuple[str, str], value: str) -> tuple[str, str, str]:
    return spot[0], value, spot[1]


def _numbers(rng: random.Random, kind: str, who: Person) -> tuple[str, str, str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    ascii_name = (
        _without_accents(who.family).lower().replace(" ", "").replace("'", "").replace("’", "").replace(".", "")
    )
    if kind == "time":
        value = rng.choice(
            (
                f"{hour:02d}:{minute:02d}",
                f"{hour % 12 + 1}:{minute:02d} pm",
                f"{hour % 12 + 1} p.m.",
                f"{hour:02d}{minute:02d} hours",
                f"{hour:02d}:{minute:02d}:07",
                f"{hour % 12 + 1}:{minute:02d}AM",
                f"{hour:02d}{minute:02d}h",
                f"{hour:02d}h{minute:02d}",
                f"{hour % 12 + 1} o'clock",
            )
        )
        return *_around(
            _spot(rng, "Called at @.\nThe page was returned at @ today.\nTime of scan: @\n(@) images"), value
        ), "inside"
    if kind == "phone":
        a, b, c = _digits(rng, 3), _digits(rng, 3), _digits(rng, 4)
        value = rng.choice(
            (f"({a}) {b}-{c}", f"{a}-{b}-{c}", f"{a}.{b}.{c}", f"+1 {a} {b} {c}", f"1-{a}-{b}-{c}", f"{a} {b} {c}")
            + (
                f"+44 20 {c} {_digits(rng, 4)}",
                f"020 {c} {_digits(rng, 4)}",
                f"({a}){b}-{c} x{_digits(rng, 3)}",
                f"{b}-{c}",
            )
        )
        return *_around(
            _spot(rng, "Call @ with questions.\nPhone: @\nThe ward was reached at @.\nFax @"), value
        ), "inside"
    if kind == "pager":
        spot = _spot(rng, "Pager @\nReached on beeper @.\npager #@\nExt. @\nvia pager number @ today.")
        return *_around(spot, _digits(rng, rng.choice((4, 5)))), "inside"
    if kind == "record number":
        value = rng.choice(
            (_digits(rng, 7), f"00{_digits(rng, 6)}", f"{_digits(rng, 2)}-{_digits(rng, 2)}-{_digits(rng, 2)}")
        )
        value = rng.choice((value, f"M{_digits(rng, 8)}", f"{_digits(rng, 3)} {_digits(rng, 3)} {_digits(rng, 3)}"))
        tops = "MRN: @\nMedical record number @\nMR# @\nHospital no. @\nPatient ID: @\nUnit number: @\n(MRN @)\nmrn @"
        return *_around(_spot(rng, tops), value), "top"
    if kind == "accession, case":
        value = rng.choice(
            (f"CT-{_digits(rng, 2)}-{_digits(rng, 6)}", f"S{_digits(rng, 2)}-{_digits(rng, 5)}", _digits(rng, 9))
        )
        tops = "Accession: @\nAccession number: @\nAcc # @\nPathology specimen @\nCase No. @\nExam number: @\nOrder #@"
        return *_around(_spot(rng, tops), value), rng.choice(("top", "inside"))
    if kind == "national id":
        value = rng.choice((f"{_digits(rng, 3)}-{_digits(rng, 2)}-{_digits(rng, 4)}", _digits(rng, 9)))
        if rng.random() < 0.4:
            return "NHS number ", f"{_digits(rng, 3)} {_digits(rng, 3)} {_digits(rng, 4)}", "", "top"
        return *_around(_spot(rng, "SSN: @\nSocial security number @\nSSN @"), value), "top"
    if kind == "account, device":
        value = rng.choice((_digits(rng, 8), f"{_digits(rng, 4)}-{_digits(rng, 4)}", f"AX{_digits(rng, 6)}"))
        tops = "Account number: @\nAcct # @\nDevice serial number @\nNPI @\nEncounter: @\nVisit no. @\nPolicy number @"
        return *_around(_spot(rng, tops), value), "top"
    if kind == "e-mail":
        value = rng.choice(
            (
                f"{who.middle.lower()}.{ascii_name}@thornfield.org",
                f"{ascii_name}_{_digits(rng, 2)}@mail.lakeshore.co.uk",
            )
        )
        value = value if rng.random() < 0.8 else value.upper()
        return *_around(_spot(rng, "Please write to @.\nE-mail: @\nCopy sent to <@>.\n(@)"), value), "bottom"
    if kind == "url":
        value = rng.choice(
            (f"https://pacs.thornfield.org/v?acc={_digits(rng, 7)}", f"www.lakeshore-imaging.com/{ascii_name}")
        )
        value = rng.choice(
            (
                value,
                f"http://10.2.{minute}.7:8080/wado?id={_digits(rng, 5)}",
                f"viewer.thornfield.org/s/{_digits(rng, 6)}",
            )
        )
        return *_around(_spot(rng, "Images at @.\nSee @ for the key images.\nLink: @"), value), "bottom"
    if kind == "address":
        street, number, town = rng.choice(STREETS), _digits(rng, rng.choice((2, 3, 4))), rng.choice(TOWNS)
        kinds = rng.choice(
            ("Street", "Ave.", "Lane", "Road", "St", "Drive", "Blvd", "Court", "Way", "Place", "Terrace")
        )
        value = rng.choice(
            (
                f"{number} {street} {kinds}",
                f"{number} N. {street} {kinds}, {town}",
                f"{number} {street} {kinds}, Apt 4B, {town}",
            )
            + (f"P.O. Box {number}, {town}", f"{street}straße {number}")
        )
        return *_around(_spot(rng, "Lives at @.\nAddress: @\nPlease send a copy to @.\nHome address @"), value), "top"
    if kind == "institution":
        value = rng.choice(INSTITUTIONS[:2] + INSTITUTIONS[4:5] + INSTITUTIONS[6:8])
        spots = "Transferred from @.\nOutside CT from @ was uploaded.\nSeen at @ for biopsy.\nPrior films at @."
        return *_around(_spot(rng, spots), value), "inside"
    if kind == "age over 89":
        value = str(rng.randrange(91, 105))
        return *_around(
            _spot(rng, "A @-year-old woman.\nThis @ y/o male.\n@ year old patient.\nAge: @"), value
        ), "inside"
    raise ValueError(kind)


UNKNOWN_KINDS = (
    "doctor", "staff", "signature", "relative", "date", "date", "date", "time", "phone", "pager", "record number",
    "accession, case", "national id", "account, device", "e-mail", "url", "address", "institution", "age over 89",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What the DICOM header of one study holds."""

    patient: Person
    referrer: Person
    operator: Person
    record_number: str
    accession: str
    phone: str
    institution: str
    study_date: date
    birth_date: date


def header(rng: random.Random) -> Header:
    """An invented header."""
    number = rng.choice(
        (_digits(rng, 7), f"000{_digits(rng, 5)}", f"MRN{_digits(rng, 7)}", f"{_digits(rng, 4)}-{_digits(rng, 4)}")
    )
    study = date(2010, 1, 1) + timedelta(days=rng.randrange(4700))
    return Header(
        patient=person(rng),
        referrer=person(rng),
        operator=person(rng),
        record_number=number,
        accession=rng.choice((_digits(rng, 8), f"ACC-{_digits(rng, 7)}", f"R{_digits(rng, 2)}.{_digits(rng, 5)}")),
        phone=f"{_digits(rng, 3)}-{_digits(rng, 3)}-{_digits(rng, 4)}",
        institution=rng.choice(INSTITUTIONS),
        study_date=study,
        birth_date=study - timedelta(days=rng.randrange(9000, 31000)),
    )


def _rewritten(rng: random.Random, number: str) -> str:
    """A number as it is copied by hand: other separators, case, no leading zeros."""
    return rng.choice((number, number.replace("-", ""), number.replace("-", " "), number.lower(), number.lstrip("0")))


def known_plants(rng: random.Random, head: Header) -> list[Plant]:
    """Several identifiers of `head`, each where people write it."""
    family = head.patient.family
    plants = [Plant("header: patient name", *_around(_spot(rng, NAME_TOPS), full_name(rng, head.patient)), "top", True)]
    if rng.random() < 0.5:
        spot, value = _spot(rng, FULL_NAME_SPOTS), full_name(rng, head.patient)
    elif family in PLAIN:
        spot = _spot(
            rng, "@ was informed of the result.\nReturn of @ after therapy.\nDiscussed with @'s family.\nseen: @"
        )
        value = rng.choice((family, family.lower(), _typo(rng, family), family.upper()))
    else:
        spot, value = _spot(rng, BARE_NAME_SPOTS), bare_name(rng, head.patient)
    plants.append(Plant("header: patient name", *_around(spot, value), "inside", True))
    value = bare_name(rng, head.referrer) if rng.random() < 0.5 else full_name(rng, head.referrer)
    plants.append(Plant("header: referrer", *_around(_spot(rng, DOCTOR_SPOTS), value), "inside", True))
    plants.append(
        Plant("header: operator", *_around(_spot(rng, SIGNATURES), full_name(rng, head.operator)), "bottom", True)
    )
    number = _rewritten(rng, head.record_number)
    plants.append(
        Plant("header: patient id", *_around(_spot(rng, "MRN @\nID @\n(@)\n#@\nRecord @ refers"), number), "top", True)
    )
    number = _rewritten(rng, head.accession)
    plants.append(
        Plant(
            "header: accession",
            *_around(_spot(rng, "Accession @\nExam @ was read.\n[@]\nStudy @"), number),
            "top",
            True,
        )
    )
    number = rng.choice(
        (head.phone, head.phone.replace("-", ""), head.phone.replace("-", "."), head.phone.replace("-", " "))
    )
    plants.append(Plant("header: phone", *_around(_spot(rng, "Home @\nreached at @\nTel @"), number), "bottom", True))
    place = rng.choice((head.institution, head.institution.upper(), _without_accents(head.institution)))
    plants.append(
        Plant(
            "header: institution",
            *_around(_spot(rng, "Performed at @.\n@, Department of CT.\nFrom @:"), place),
            "top",
            True,
        )
    )
    value, _form = written_date(rng, head.study_date)
    plants.append(Plant("header: study date", *_around(_spot(rng, DATE_SPOTS), value), "inside", True))
    while (parts := written_date(rng, head.birth_date))[1] in (
        "mon yyyy",
        "month of yyyy",
        "mm/yyyy",
        "mon 'yy",
        "month d",
        "dth of mon",
    ):
        pass
    if not parts[1].startswith("weekday, "):
        plants.append(
            Plant(
                "header: birth date",
                *_around(_spot(rng, "DOB: @\nborn @\nD.O.B. @\nDate of birth @"), parts[0]),
                "top",
                True,
            )
        )
    return rng.sample(plants, k=4)


CLINICAL = {
    "vertebra": "T4/5|T12-L1|C5-C6|L4|T7 and T8|vertebral body T11|L5/S1|D10|T3 through T9|TH12",
    "series, image": "series 4, image 112|image 4/88|series 2 images 45-51|Se 3 Im 77|slice 204|(4:112)|img 33 of 210|axial image 1042",
    "measure": "12 x 9 mm|3.5 × 2.4 × 1.2 cm|4.1 cm|1.5 mm|35 HU|-850 HU|SUV 3.2|120 kVp|450 mGy*cm|20 ml|EF 55%|10-12 mm|2.5x3.0cm|4-5 mm",
    "staging": "T1aN0M0|pT2 N1 M0|stage IIIA|cT4N2M1b|ypT0 N0|grade 3/6|Fleischner 2017|Stage 4|T2bN3",
    "score": "BI-RADS 2|Lung-RADS 4A|LungRADS 3|CAD-RADS 2|CO-RADS 5|Lung RADS category 4B|Agatston score 212|Genant 2",
    "eponym": "Kerley B lines|Swan-Ganz catheter|Hampton hump|Westermark sign|Bochdalek hernia|Hodgkin lymphoma|Wegener granulomatosis"
    "|Harrison groove|Swyer-James syndrome|Pancoast tumour|Morgagni hernia|Hounsfield units|Virchow node|Turner syndrome|Monod sign"
    "|Campbell-type contour|Schmorl nodes|Golden S sign|Haller cell|Ranke complex",
    "fraction, count": "2/3 of the lobe|3 of 5 lobes|1/3|grade 2/4|ratio 1:2|4 of 12 nodes|50 %|3-4 times|Segment 8|segments 9/10|5-7 ribs",
    "time span": "2 months ago|since 2015|6 to 12 months|3-month follow-up|24 hours|in 1 year|for 30 years|88-year-old|5 days|post-op day 3",
    "device, drug": "8 French catheter|Omnipaque 350|COVID-19|CA 19-9|FDG PET/CT|18 gauge needle|100 mL Isovue-370|64-slice|5F PICC|HER2",
}  # fmt: skip
CLINICAL_SPOTS = (
    "There is @ noted.\nAgain @ is seen.\nNote is made of @.\nFindings: @\nStable (@).\nUnchanged @ compared to prior."
)


def clinical_plants(rng: random.Random) -> list[Plant]:
    """Tokens that look like identifiers and must stay."""
    kinds = rng.sample(sorted(CLINICAL), k=3)
    return [
        Plant(
            kind, *_around(_spot(rng, CLINICAL_SPOTS), rng.choice(CLINICAL[kind].split("|"))), "inside", clinical=True
        )
        for kind in kinds
    ]
