"""Readers who dictate: varied English over what was placed, with the identities they cannot help mentioning."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np

from glint.core.config.demo import DemoConfig
from glint.core.seeds import generator
from glint.demo import phrases
from glint.demo.catalogue import FINDINGS, PlacedFinding
from glint.demo.people import Patient, Visitation
from glint.demo.phrases import Phrasebook


@dataclass(kw_only=True)
class Report:
    """A report's text and the identities in it, each as (kind, value as written)."""

    text: str = ""
    planted: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Habits:
    """How one reader writes: header wording by section, layout, units, and how much is said of normal organs."""

    header: dict[str, str]
    layout: str
    centimetres: bool
    abbreviates: bool
    organ_sentences: int
    negations: int
    bullets: bool
    date_format: str


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _habits(seed: int, reader: str) -> _Habits:
    rng = generator(seed, "habits", reader)
    return _Habits(
        header={name: _pick(rng, choices) for name, choices in phrases.HEADERS.items()},
        layout=_pick(rng, ("full", "full", "full", "findings only", "combined", "headless")),
        centimetres=bool(rng.random() < 0.4),
        abbreviates=bool(rng.random() < 0.2),
        organ_sentences=int(rng.integers(1, 5)),
        negations=int(rng.integers(1, 5)),
        bullets=bool(rng.random() < 0.4),
        date_format=_pick(rng, ("us", "iso", "long", "dots")),
    )


def write_date(day: date, style: str) -> str:
    """A date as people write it: 3/14/2019, 2019-03-14, March 14, 2019 or 14.03.2019."""
    if style == "us":
        return f"{day.month}/{day.day}/{day.year}"
    if style == "iso":
        return day.isoformat()
    if style == "dots":
        return f"{day.day:02d}.{day.month:02d}.{day.year}"
    return f"{phrases.MONTHS[day.month - 1]} {day.day}, {day.year}"


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_article(noun: str, head: str, counted: frozenset[str]) -> str:
    """`noun` with the article and verb its `head` term asks for: 'is a lung mass', 'are ground glass opacities'."""
    last = head.split(" with ")[0].split(" in the ")[0].split(" through ")[0].split()[-1]
    if last.endswith(("ies", "changes")):
        return f"are {noun}"
    if last not in counted or head.startswith("increased"):
        return f"is {noun}"
    return f"is {'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _size(found: PlacedFinding, habits: _Habits, rng: np.random.Generator) -> str:
    wide = max(1.0, round(found.size_mm))
    text = f"{wide / 10:.1f} cm" if habits.centimetres else f"{wide:.0f} mm"
    if found.finding in ("nodule", "mass") and rng.random() < 0.3:
        short = max(1.0, round(wide * rng.uniform(0.82, 0.97)))
        return f"{wide / 10:.1f} x {short / 10:.1f} cm" if habits.centimetres else f"{wide:.0f} x {short:.0f} mm"
    return text


def site_of(found: PlacedFinding, abbreviates: bool = False, *, zones: bool = False) -> str:
    """Where a finding of the lung lies: 'right upper lobe', 'RUL', 'lingula', 'both lower lobes', 'left lung'; with
    `zones`, as one film alone allows: 'left mid lung zone'.
    """
    if zones and found.laterality is not None and found.region is not None:
        zone = "mid" if found.region == "middle" else found.region
        return f"both {zone} lung zones" if found.laterality == "bilateral" else f"{found.laterality} {zone} lung zone"
    if found.laterality == "bilateral":
        if found.region is None or found.region == "middle":
            return "both lungs"
        return f"both {found.region} lobes"
    if found.region is None:
        return f"{found.laterality} lung"
    if found.region == "middle" and found.laterality == "left":
        return "lingula"
    if abbreviates and found.laterality is not None:
        return f"{found.laterality[0]}{found.region[0]}l".upper()
    return f"{found.laterality} {found.region} lobe"


def _slots(
    found: PlacedFinding, term: str, habits: _Habits, rng: np.random.Generator, book: Phrasebook
) -> dict[str, str]:
    site = site_of(found, habits.abbreviates, zones=book.zones) if found.laterality else ""
    where = f"in {site}" if site.startswith("both") else f"in the {site}"
    grade = found.grade or "moderate"
    if found.finding == "emphysema":
        grade = {"small": "mild", "moderate": "moderate", "large": "severe"}[grade]
    side = found.laterality or ""
    is_term = _with_article(term, term, book.counted)
    graded = _with_article(f"{grade} {term}", term, book.counted)
    return {
        "term": term,
        "Term": _upper_first(term),
        "site": site,
        "Site": _upper_first(site),
        "where": where,
        "where_": f" {where}" if site else "",
        "side": side,
        "Side": _upper_first(side),
        "grade": grade,
        "Grade": _upper_first(grade),
        "size": _size(found, habits, rng),
        "there_is": f"There {is_term}",
        "there_is_low": f"there {is_term}",
        "There_is_graded": f"There {graded}",
        "There_is_plain": f"There {is_term}",
    }


def describe(found: PlacedFinding, habits: _Habits, rng: np.random.Generator, book: Phrasebook) -> str:
    """One sentence about one finding."""
    term = _pick(rng, book.terms[found.finding])
    slots = _slots(found, term, habits, rng, book)
    if not found.certain:
        return _pick(rng, book.hedges).format(**slots)
    frame = book.frame_of[found.finding]
    if frame == "pleural" and found.laterality == "bilateral":
        frame = "pleural_bilateral"
    return _pick(rng, book.frames[frame]).format(**slots)


def _summarise(found: PlacedFinding, habits: _Habits, rng: np.random.Generator, book: Phrasebook) -> str:
    """The finding once more, in the few words of an impression."""
    term = _pick(rng, book.terms[found.finding])
    slots = _slots(found, term, habits, rng, book)
    if not found.certain:
        return _pick(rng, book.hedges[:3]).format(**slots)
    if found.finding in ("pleural_effusion", "pneumothorax"):
        return "{Side} {term}.".format(**slots)
    one_place = slots["site"] and not slots["site"].startswith("both")
    return ("{Site} {term}." if one_place else "{Term}{where_}.").format(**slots)


def _mistyped(sentence: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters of one longer word change places."""
    words = sentence.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 6 and word.isalpha()]
    if not long:
        return sentence
    place = long[int(rng.integers(len(long)))]
    at = int(rng.integers(1, len(words[place]) - 2))
    word = words[place]
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _negations(absent: list[str], count: int, rng: np.random.Generator, book: Phrasebook) -> list[str]:
    """Some absent findings denied, pairs together; the rest is left unsaid."""
    said: list[str] = []
    left = list(absent)
    for pair, wordings in book.negated_pairs.items():
        if all(name in left for name in pair) and rng.random() < 0.45:
            said.append(_pick(rng, wordings))
            left = [name for name in left if name not in pair]
    for name in rng.permutation(left)[: max(0, count - len(said))]:
        said.append(_pick(rng, book.negations[str(name)]))
    return said


def _findings_text(
    findings: tuple[PlacedFinding, ...],
    habits: _Habits,
    config: DemoConfig,
    rng: np.random.Generator,
    book: Phrasebook,
    *,
    followed: bool,
) -> list[str]:
    told = []
    for found in rng.permutation(np.array([f for f in findings if f.reported], dtype=object)):
        sentence = describe(found, habits, rng, book)
        if rng.random() < config.typo_fraction:
            sentence = _mistyped(sentence, rng)
        if followed and rng.random() < 0.5:
            sentence += " " + _pick(rng, book.changes)
        told.append(sentence)
    present = {found.finding for found in findings}
    absent = [name for name in FINDINGS if name not in present]
    lead = [_pick(rng, book.normal_lungs)] if not findings and rng.random() < 0.7 else []
    organs = [str(s) for s in rng.permutation(np.array(book.normal_organs))[: habits.organ_sentences]]
    tail = organs + _negations(absent, habits.negations, rng, book)
    return lead + told + [str(s) for s in rng.permutation(np.array(tail, dtype=object))]


def _impression_text(
    findings: tuple[PlacedFinding, ...], habits: _Habits, rng: np.random.Generator, book: Phrasebook
) -> str:
    lines = [_summarise(found, habits, rng, book) for found in findings if found.reported]
    lines = lines or [_pick(rng, book.normal_impressions)]
    if habits.bullets and len(lines) > 1:
        return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    return " ".join(lines)


def _clinic_lines(
    report: Report,
    patient: Patient,
    visit: Visitation,
    habits: _Habits,
    rng: np.random.Generator,
    book: Phrasebook,
    prior: date | None,
) -> dict[str, str]:
    """Indication, comparison, head and signature, with every identity noted as it is written."""

    def plant(kind: str, value: str) -> str:
        report.planted.append((kind, value))
        return value

    title = "Mr." if patient.sex == "M" else "Mrs."
    reason = _pick(rng, book.reasons)
    if rng.random() < 0.5:
        reason = f"{title} {plant('family_name', patient.surname)} presents for {book.study}. {reason}"
    lines = {"indication": reason, "comparison": "None."}
    if prior is not None:
        lines["comparison"] = f"{book.prior} of {plant('study_date', write_date(prior, habits.date_format))}."
    if rng.random() < 0.5:
        name = plant("patient_name", f"{patient.surname}, {patient.given}")
        born = plant("birth_date", write_date(patient.birth, habits.date_format))
        head = f"Patient: {name}  MRN: {plant('patient_id', patient.mrn)}  DOB: {born}"
        lines["head"] = f"{head}\nAccession: {plant('accession', visit.accession)}"
    signed = write_date(visit.study_date, habits.date_format)
    lines["tail"] = f"Dictated by Dr. {plant('physician', visit.reader)} on {plant('study_date', signed)}."
    if rng.random() < 0.3:
        caller = plant("physician", visit.referring.split("^")[0])
        lines["tail"] += f" Results discussed with Dr. {caller} by phone, {plant('phone', patient.phone)}."
    return lines


def write_report(
    seed: int,
    number: int,
    config: DemoConfig,
    patient: Patient,
    visit: Visitation,
    findings: tuple[PlacedFinding, ...],
    how: str,
    prior: date | None,
    book: Phrasebook = phrases.CT,
) -> Report:
    """Dictate the report of study `number`. The truth is told up to what `findings` marks unreported or uncertain.

    Args:
        how: Ends the sentence on technique: 'with intravenous contrast', 'in two views'.
        book: What the readers of this kind of study say.
    """
    rng = generator(seed, "report", number)
    habits = _habits(seed, visit.reader)
    report = Report()
    lines = _clinic_lines(report, patient, visit, habits, rng, book, prior)
    body = " ".join(_findings_text(findings, habits, config, rng, book, followed=prior is not None))
    impression = _impression_text(findings, habits, rng, book)
    header = habits.header
    parts = [lines["head"]] if "head" in lines else []
    if habits.layout != "headless":
        parts.append(f"{header['indication']} {lines['indication']}")
        parts.append(f"{header['technique']} {book.technique.format(how=how)}")
        parts.append(f"{header['comparison']} {lines['comparison']}")
    if habits.layout == "full":
        parts += [f"{header['findings']}\n{body}", f"{header['impression']}\n{impression}"]
    elif habits.layout == "combined":
        parts.append(f"{header['combined']}\n{body}")
    elif habits.layout == "findings only":
        parts.append(f"{header['findings']}\n{body}")
    else:
        parts.append(f"{book.headless.format(how=how)} {body}")
    report.text = "\n\n".join([*parts, lines["tail"]]) + "\n"
    report.planted = [(kind, value) for kind, value in dict.fromkeys(report.planted) if value in report.text]
    return report
