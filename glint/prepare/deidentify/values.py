"""New values for old ones: dates, times, ages, numbers as DICOM writes them.

Source: DICOM PS3.5 section 6.2 (value representations); PS3.15 E.3.6 (retain longitudinal temporal information with
modified dates).
"""

import re
from datetime import date, timedelta

_DATE = re.compile(r"(\d{4})([.\-]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?")
_DATETIME = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
OLDEST_PRECISE_AGE_YEARS = 89
AGE_IN_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
DUMMY_DATES = {date(1900, 1, 1), date(1800, 1, 1), date(1970, 1, 1), date(1753, 1, 1)}


def parse_date(text: str) -> date | None:
    """A date from `YYYYMMDD`, `YYYY.MM.DD` or `YYYY-MM-DD`; None for anything else and for usual fillers."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        parsed = date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
    return None if parsed in DUMMY_DATES else parsed


def _shifted(text: str, days: int) -> str | None:
    parsed = parse_date(text)
    try:
        return None if parsed is None else (parsed + timedelta(days=days)).strftime("%Y%m%d").zfill(8)
    except OverflowError:
        return None


def shift_date(text: str, days: int) -> str | None:
    """A DA value moved by `days`, `""` for an empty one, None for what can't be read (a range, a filler)."""
    return _shifted(text, days) if text.strip() else ""


def shift_datetime(text: str, days: int) -> str | None:
    """A DT value with its date moved by `days`; time and zone stay. None unless year, month and day are there."""
    stripped = text.strip()
    if not stripped:
        return ""
    match = _DATETIME.fullmatch(stripped)
    moved = _shifted(match[1], days) if match else None
    return None if match is None or moved is None else moved + (match[2] or "") + (match[3] or "")


def checked_time(text: str) -> str | None:
    """A TM value as it is, or None if it is not a time."""
    stripped = text.strip()
    return stripped if not stripped or _TIME.fullmatch(stripped) else None


def capped_age(text: str) -> str | None:
    """An AS value; every age above 89 years reads `090Y`; None if it is not an age."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return None if text.strip() else ""
    years = int(match[1]) * AGE_IN_YEARS[match[2]]
    return "090Y" if years > OLDEST_PRECISE_AGE_YEARS else f"{int(match[1]):03d}{match[2]}"


def age_from_dates(birth: str, study: str) -> str | None:
    """Age at the study in years, capped, from the original dates; None if one of them can't be read."""
    born, seen = parse_date(birth), parse_date(study)
    if born is None or seen is None or seen < born:
        return None
    years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return capped_age(f"{min(years, 999):03d}Y")
