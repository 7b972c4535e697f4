"""New values for old ones: dates, times, ages, numbers as DICOM writes them.

Source: DICOM PS3.5 section 6.2 (value representations); PS3.15 E.3.6 (retain longitudinal temporal information with
modified dates).
"""

import math
import re
import struct
from collections.abc import Iterable
from datetime import date, timedelta
from itertools import pairwise

from glint.prepare.deidentify.rules import LONG_NUMBER_DIGITS

_DATE = re.compile(r"(\d{4})([.\-]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?")
_DATETIME = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
OLDEST_PRECISE_AGE_YEARS = 89
AGE_IN_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
FLOAT_FORMATS = {"FL": "<f", "FD": "<d"}
PLAUSIBLE_FLOATS = (1e-30, 1e5)  # eight letters read as a number lie far outside
_PRINTABLE = re.compile(rb"[ -~]{4,}")
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
    """A TM value, without the colons of old files, or None if it is not a time."""
    stripped = text.strip()
    return stripped.replace(":", "") if not stripped or _TIME.fullmatch(stripped) else None


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


def number_hides_text(vr: str, value: bytes) -> bool:
    """True if a binary number element (FL, FD, US, UL, …) holds characters where numbers should be.

    Small integers have zero bytes and measured floats bytes above 127, so that four printable bytes in a row with no
    other byte but padding are text; floats must also be of a size that no measurement has.
    """
    if not value.isascii():
        return False
    if vr in FLOAT_FORMATS:
        low, high = PLAUSIBLE_FLOATS
        width = struct.calcsize(FLOAT_FORMATS[vr])
        whole = value[: len(value) // width * width]
        sizes = [abs(number) for (number,) in struct.iter_unpack(FLOAT_FORMATS[vr], whole)]
        return any(not math.isfinite(size) or size > high or 0 < size < low for size in sizes)
    return _PRINTABLE.fullmatch(value.strip(b"\0")) is not None


def is_lookup_table(value: bytes) -> bool:
    """True if LUT Data rises or falls all along, as 16 or 8 bit numbers, which no text does."""
    for form in ("<H", "B"):
        width = struct.calcsize(form)
        if len(value) % width:
            continue
        entries = [entry for (entry,) in struct.iter_unpack(form, value)]
        steps = [second - first for first, second in pairwise(entries)]
        if len(entries) > 8 and (min(steps) >= 0 or max(steps) <= 0):
            return True
    return False


def whole_number(text: str) -> str:
    """A number as its digits without sign and zeros before it; "" where it is no whole number."""
    whole, _, fraction = text.strip().lstrip("+-").partition(".")
    return whole.lstrip("0") if whole.isdigit() and not fraction.strip("0") else ""


def long_identifiers(identifiers: Iterable[str]) -> frozenset[str]:
    """Those of `identifiers` that are whole numbers too long to equal a measure by chance, as `whole_number` gives them."""
    numbers = (whole_number(text) for text in identifiers if text.strip().isdigit())
    return frozenset(number for number in numbers if len(number) >= LONG_NUMBER_DIGITS)
