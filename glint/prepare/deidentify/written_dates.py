"""Dates as people write them: found, moved, and written again in the same form."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from glint.prepare.deidentify.spans import Span

MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_MONTH = r"(?P<month>" + "|".join(rf"{name}|{name[:3]}\.?" for name in MONTHS) + r"|sept\.?)"
_DAY = r"(?P<day>\d{1,2})(?P<ordinal>st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4}|'?\d{2})(?!\d|[.,]\d)"
_NOT_A_MEASURE = r"(?!\s*(?:x|mm|cm|ml|cc|hu|%|-?year|-?month|\d|[.:/]\d))"
_SEPARATED = r"(?P<month_first>\d{1,2})(?P<separator>[-/.])(?P<day_second>\d{1,2})(?P=separator)"
_CUE = r"(?<=\bon )|(?<=(?:study|.exam|films|.film|image|.scan) of )|(?<=\bct of )|(?<=\bfrom )|(?<=\bdated )|(?<=\bsince )|(?<=\bprior )|(?<=\bexam )|(?<=\bstudy )|(?<=\bct )"
_START = r"(?:(?<![\d./-])|(?<=/\d{4}-)|(?<=/\d\d-))"  # the second date of a range follows the first
_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![\d.])(?P<year>(?:19|20)\d{2})(?P<separator>[-/.])(?P<month>\d{1,2})(?P=separator)(?P<day>\d{1,2})(?!\d)",
        rf"(?<!\d)(?P<year>(?:19|20)\d{{2}})(?P<comma>[\s/-]+){_MONTH}(?P<gap>[\s/-]+){_DAY}\b",
        r"(?<!\d)(?P<year>(?:19|20)\d{2})(?P<month>0[1-9]|1[0-2])(?P<day>0[1-9]|[12]\d|3[01])(?!\d)",
        rf"{_START}{_SEPARATED}(?P<year>\d{{4}})(?!\d)",
        r"(?<![\d./-])(?P<month_first>\d{1,2})(?P<separator>\s?[-/.]\s?)(?P<day_second>\d{1,2})(?P=separator)(?P<year>(?:19|20)\d{2})(?!\d)",
        rf"{_START}(?P<month_first>\d{{1,2}})(?P<separator>[-/])(?P<day_second>\d{{1,2}})(?P=separator)(?P<year>\d{{2}})(?![\d/])(?!-\d\d?(?!\d|/))",
        r"(?<![\d./-])(?P<month_first>0[1-9]|[12]\d|3[01])(?P<separator>\.)(?P<day_second>0[1-9]|1\d|2\d|3[01])\.(?P<year>\d{2})(?!\d|\.\d|\s*(?:mm|cm))",
        rf"\b{_MONTH}(?P<gap>[\s-]+){_DAY}(?P<comma>,?[\s-]+|,){_YEAR}",
        rf"(?<!\d){_DAY}(?P<gap>[\s-]*(?:of\s+)?){_MONTH}(?P<comma>,?[\s-]*){_YEAR}",
        rf"\b{_MONTH}(?P<comma>,?[\s/-]+(?:of\s+)?)(?P<year>(?:19|20)\d{{2}}|'\d{{2}})\b",
        r"(?<![\d./-])(?P<month>0?[1-9]|1[0-2])(?P<comma>[/-])(?P<year>(?:19|20)\d{2})(?![\d/-])",
        rf"\b(?-i:(?=[A-Z])){_MONTH}(?P<gap>\s+){_DAY}\b{_NOT_A_MEASURE}",
        rf"(?<!\d){_DAY}(?P<gap>\s+(?:of\s+)?)(?-i:(?=[A-Z])){_MONTH}\b(?!\s+\d)",
        rf"(?:{_CUE})(?P<month_first>\d{{1,2}})(?P<separator>/)(?P<day_second>\d{{1,2}})(?![\d/])(?!\s*(?:mm|cm|of))",
    )
)
CENTURY_PIVOT = 50  # '49 is 2049, '50 is 1950


@dataclass(frozen=True, kw_only=True)
class DateShift:
    """How dates of one patient move.

    Args:
        days: Whole days added to every date.
        study_date: Gives a year to dates without one; None leaves those as [DATE].
        birth_dates: Dates that are never shifted but replaced: with the age they would tell the shift.
        day_first: How 03/04/2021 reads when both are possible.
    """

    days: int
    study_date: date | None
    birth_dates: frozenset[date]
    day_first: bool


def _month_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    stem = text.lower().rstrip(".")[:3]
    return next(index for index, name in enumerate(MONTHS, 1) if name.startswith(stem))


def _full_year(text: str) -> int:
    digits = text.lstrip("'")
    year = int(digits)
    if len(digits) == 4:
        return year
    return year + (2000 if year < CENTURY_PIVOT else 1900)


def _day_comes_first(first: int, second: int, shift: DateShift) -> bool:
    if first > 12 or second > 12:
        return first > 12
    return shift.day_first


def _read(match: re.Match[str], shift: DateShift) -> tuple[date | None, bool]:
    """The date a match stands for (None: no such day, or no year to be had) and whether its day comes first."""
    groups = match.groupdict()
    year = _full_year(groups["year"]) if groups.get("year") else shift.study_date.year if shift.study_date else None
    day_first = False
    if "month_first" in groups:
        first, second = int(groups["month_first"]), int(groups["day_second"])
        day_first = _day_comes_first(first, second, shift)
        month, day = (second, first) if day_first else (first, second)
    else:
        month, day = _month_number(groups["month"]), int(groups.get("day") or 15)
    try:
        return (None if year is None else date(year, month, day)), day_first
    except ValueError:
        return None, day_first


def _month_like(text: str, month: int) -> str:
    """`month` as a number or a name, in the length and case of `text`."""
    name = MONTHS[month - 1]
    bare = text.rstrip(".")
    if text.endswith(".") or len(bare) < len(MONTHS[_month_number(text) - 1]):
        name = name[:3] + ("." if text.endswith(".") else "")
    return name.upper() if bare.isupper() else name if bare.islower() else name.capitalize()


def _ordinal(day: int) -> str:
    return "th" if 10 < day % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _written(match: re.Match[str], moved: date, day_first: bool) -> str:
    """`moved` in the form of `match`: same order, separators, padding, length of year."""
    groups = {name: value for name, value in match.groupdict().items() if value is not None}
    days = [groups[name] for name in ("day", "day_second", "month_first", "month") if groups.get(name, "").isdigit()]
    width = 1 if any(len(text) == 1 for text in days) else 2 if len(days) > 1 or any(t[0] == "0" for t in days) else 1
    fields = {"day": f"{moved.day:0{width}d}", "ordinal": _ordinal(moved.day)}
    if "month" in groups:
        numeric = groups["month"].isdigit()
        fields["month"] = f"{moved.month:0{width}d}" if numeric else _month_like(groups["month"], moved.month)
    pair = (moved.day, moved.month) if day_first else (moved.month, moved.day)
    fields["month_first"], fields["day_second"] = (f"{value:0{width}d}" for value in pair)
    if "year" in groups:
        short = len(groups["year"].lstrip("'")) == 2
        fields["year"] = ("'" if groups["year"][0] == "'" else "") + (
            f"{moved.year % 100:02d}" if short else f"{moved.year:04d}"
        )
    text, base = match[0], match.start()
    for name in sorted((name for name in groups if name in fields), key=match.start, reverse=True):
        text = text[: match.start(name) - base] + fields[name] + text[match.end(name) - base :]
    return text


def date_spans(text: str, shift: DateShift) -> Iterator[Span]:
    """Every written date in `text`, earlier forms first, each character in one span at most.

    A date that can't exist, has no year to be had, or is the patient's birthday becomes `[DATE]`.
    """
    taken: list[Span] = []
    for form in _FORMS:
        for match in form.finditer(text):
            parsed, day_first = _read(match, shift)
            replacement = "[DATE]"
            if parsed is not None and parsed not in shift.birth_dates:
                try:
                    replacement = _written(match, parsed + timedelta(days=shift.days), day_first)
                except OverflowError:
                    replacement = "[DATE]"
            if replacement == match[0]:  # a day without a year, moved by whole years
                replacement = "[DATE]"
            span = Span(match.start(), match.end(), "date", replacement)
            if not any(span.overlaps(other) for other in taken):
                taken.append(span)
                yield span
