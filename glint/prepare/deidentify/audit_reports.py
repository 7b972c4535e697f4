"""Audit of report texts: every identifier that header and report table know is looked for again, in a way of its own.

The cleaner works with fuzzy patterns in the original; here the exact spellings are searched in what came out.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from glint.prepare.deidentify.residual import name_parts
from glint.prepare.deidentify.rules import PLACEHOLDERS
from glint.prepare.deidentify.values import parse_date
from glint.prepare.deidentify.words import COMMON, EPONYMS

SHORTEST = 4  # shorter names and numbers occur in any text
NAMES, WORDS, NUMBERS, PLACES = "names", "names that are ordinary words too", "numbers and codes", "institutions"
STUDY_DATES, BIRTH_DATES = "study dates", "birth dates"
CLASSES = (NAMES, NUMBERS, PLACES, STUDY_DATES, BIRTH_DATES, WORDS)
"""What is looked for. Ordinary words stay where the rules could tell that they name nobody: a count to read, no fault."""
_WORD = re.compile(r"[^\W\d_]+")
_MONTHS = "%B %d, %Y", "%d %B %Y", "%b %d, %Y", "%d %b %Y", "%d-%b-%Y"
_NUMBERS = "%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%m/%d/%y", "%d.%m.%y"
Row = Mapping[str, Any]


@dataclass
class ReportAudit:
    """Counts over the reports of a run.

    Args:
        looked_for: By class, how many (report, identifier) were searched.
        left: By class, how many of them were found.
        places: (study_id, class) of what was found; it names no identifier.
    """

    reports: int = 0
    passed: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    looked_for: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    places: list[tuple[str, str]] = field(default_factory=list)

    def table(self) -> list[dict[str, object]]:
        """Rows `identifiers, looked_for, left` in fixed order."""
        return [{"identifiers": name, "looked_for": self.looked_for[name], "left": self.left[name]} for name in CLASSES]


def _plain(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text).lower()
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _day_forms(day: date) -> Iterator[str]:
    """`day` as people write it, with and without zeros in front."""
    for form in (*_NUMBERS, *_MONTHS):
        written = day.strftime(form).lower()
        yield written
        if form not in ("%Y%m%d", "%d-%b-%Y"):
            yield re.sub(r"\b0(?=\d\b)", "", written)


def _dates_left(text: str, days: Iterable[str], moved: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """For each of `days`: does it stand in `text` outside of dates that were moved there?"""
    for original in days:
        parsed = parse_date(original)
        if parsed is not None:
            forms = "|".join(sorted({re.escape(form) for form in _day_forms(parsed)}, key=len, reverse=True))
            found = [match.span() for match in re.finditer(rf"(?<!\d)(?:{forms})(?!\d)", text.lower())]
            yield any(not any(a <= start and end <= b for a, b in moved) for start, end in found)


def _numbers(values: Iterable[str]) -> set[str]:
    """Letters and digits of codes long enough to mean something."""
    plain = {re.sub(r"[\W_]", "", _plain(value)) for value in values}
    return {value for value in plain if len(value) >= SHORTEST and any(map(str.isdigit, value))}


def _number_left(text: str, number: str) -> bool:
    """True if `number` stands in `text`, at most one separator between its characters."""
    return re.search(rf"(?<![a-z0-9]){r'[ ./_-]?'.join(map(re.escape, number))}(?![a-z0-9])", text) is not None


def audit_report(audit: ReportAudit, report: Row, typed: Sequence[str], study: Row) -> None:
    """Add one row of `deidentify_reports`; `typed` are the report table's identifiers, `study` is its index row."""
    audit.reports += 1
    if report["status"] != "ok":
        audit.quarantined[report["reason"]] += 1
        return
    audit.passed += 1
    text, replaced = report["text"], report["replacements"]
    audit.replaced.update(span["kind"] for span in replaced)
    plain = _plain(text)
    words = set(_WORD.findall(plain))
    persons = [*study["patient_names"], *study["other_persons"], *(v for v in typed if not any(map(str.isdigit, v)))]
    parts = {_plain(part) for name in persons for part in name_parts(name)} - PLACEHOLDERS
    parts = {part for part in parts if len(part) >= SHORTEST and part.isalpha()}
    moved = [(span["start"], span["end"]) for span in replaced if span["kind"] == "date"]
    ids = _numbers([study["raw_patient_id"], study["accession"], study["study_uid"], *study["identifiers"], *typed])
    places = {_plain(" ".join(value.split())) for value in study["institutions"]}
    line = " ".join(plain.split())
    outcomes = {
        NAMES: [part in words for part in parts - COMMON - EPONYMS],
        WORDS: [part in words for part in parts & (COMMON | EPONYMS)],
        NUMBERS: [_number_left(plain, number) for number in ids],
        PLACES: [place in line for place in places if len(place) >= SHORTEST and place not in COMMON],
        STUDY_DATES: list(_dates_left(text, study["study_dates"], moved)),
        BIRTH_DATES: list(_dates_left(text, study["birth_dates"], moved)),
    }
    for name, found in outcomes.items():
        audit.looked_for[name] += len(found)
        audit.left[name] += sum(found)
        if any(found):
            audit.places.append((report["study_id"], name))


def audit_reports(shards: Iterable[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]) -> ReportAudit:
    """Audit shards of (`deidentify_reports`, `index_reports`, `index_studies`)."""
    audit = ReportAudit()
    for cleaned, raw, studies in shards:
        typed = dict(zip(raw["study_id"], raw["identifiers"].to_list(), strict=True))
        by_study = {row["study_id"]: row for row in studies.iter_rows(named=True)}
        for report in cleaned.sort("study_id").iter_rows(named=True):
            audit_report(audit, report, typed.get(report["study_id"], []), by_study[report["study_id"]])
    return audit
