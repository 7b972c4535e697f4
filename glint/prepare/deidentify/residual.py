"""The last gate: no original identifier may be found in the bytes that leave.

A search in raw bytes also sees what no parser would show: padding, preambles, broken elements.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from glint.prepare.deidentify.encoded import encoded_forms
from glint.prepare.deidentify.rules import NUMBERS_THAT_HOLD_IDS, PLACEHOLDERS
from glint.prepare.deidentify.values import long_identifiers, parse_date, whole_number

SHORTEST = 4
FOREIGN_BYTES = 6  # in UTF-8: two Chinese or three Cyrillic letters; fewer occur by chance
SUBSTRING_LETTERS = 6  # shorter words occur inside others ("mens" in SIEMENS): they must stand alone
PIXEL_SHORTEST = 8  # shorter ones occur in compressed pixels by chance
NUMBER_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT", "OB", "OW", "OV"})
DATE_FORMS = ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y")
_WIDE = re.compile(rb"[!-~]\0[!-~]\0[!-~]\0")  # UTF-16 of plain letters: the letters with zeros between
_SEPARATORS = re.compile(r"[\^=,;\s\\'’.-]+")


def name_parts(name: str) -> list[str]:
    """Components of a person name, of any character set, without empty ones."""
    return [part for part in _SEPARATORS.split(name) if part]


def _date_forms(text: str) -> list[str]:
    parsed = parse_date(text)
    return [parsed.strftime(form) for form in DATE_FORMS] if parsed else []


def _pattern(word: str) -> str:
    escaped = re.escape(word)
    if word.isdigit():
        return rf"(?<![0-9])(?<![0-9]\.){escaped}(?![0-9])"
    if word.isalpha() and word.isascii() and len(word) < SUBSTRING_LETTERS:
        return rf"(?<![a-z]){escaped}(?![a-z])"
    return escaped


@dataclass(frozen=True)
class ResidualScan:
    """Searches for a fixed set of identifiers; make one per study with `residual_scan`."""

    in_header: re.Pattern[str]
    in_pixels: tuple[bytes, ...]
    in_numbers: re.Pattern[str]
    in_bytes: re.Pattern[bytes] | None
    long_numbers: frozenset[str] = frozenset()
    as_binary: tuple[bytes, ...] = ()

    def finds(self, header: bytes, pixels: bytes, dataset: Dataset, uids: Iterable[str]) -> bool:
        """True if an identifier is in the bytes of a written file; `dataset` is its parsed form.

        An all-digit identifier that is part of a number element is a coincidence, and so is a short one that is all of
        it (1024 in a rescale intercept, 512 rows). One of six digits or more that is all of a value was typed there.
        """
        if any(uid.encode() in header for uid in uids if len(uid) >= SHORTEST):
            return True
        if _may_hold_words(pixels) and any(word in pixels for word in self.in_pixels):
            return True
        text = header.decode("utf-8", "replace").lower()
        if self.in_header.search(text) or (self.in_bytes is not None and self.in_bytes.search(header)):
            return True
        if _WIDE.search(header) and self.in_header.search(text.replace("\0", "")):
            return True
        suspected = self.in_numbers.search(text) is not None or any(number in header for number in self.as_binary)
        return suspected and self._in_elements(dataset)

    def _in_elements(self, dataset: Dataset) -> bool:
        for element in dataset.iterall():
            if element.VR in NUMBERS_THAT_HOLD_IDS:
                values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
                if any(whole_number(str(value)) in self.long_numbers for value in values):
                    return True
            elif (
                element.VR not in NUMBER_VRS
                and element.VR not in ("SQ", "UI")
                and self.in_numbers.search(str(element.value).lower())
            ):
                return True
        return False


def _may_hold_words(pixels: bytes) -> bool:
    """False where no 16 bit word has a letter, a digit or a part of one as its high byte, which spares the search.

    Eight bytes of text in a row cover a 16 bit word that reads, signed, as 0x2000 or more (ASCII) or as less than
    -0x1000 (UTF-8, whose later bytes are 0x80 to 0xBF): most CT values lie between.
    """
    numbers = np.frombuffer(pixels, "<i2", count=len(pixels) // 2)
    return numbers.size > 0 and bool(numbers.max() >= 0x2000 or numbers.min() < -0x1000)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    alternatives = sorted({_pattern(word) for word in words})
    return re.compile("|".join(alternatives) if alternatives else r"(?!)")


def _any_bytes(words: Iterable[str]) -> re.Pattern[bytes] | None:
    alternatives = sorted({re.escape(form) for word in words for form in encoded_forms(word) if len(form) >= SHORTEST})
    return re.compile(b"|".join(alternatives)) if alternatives else None


def _is_long_enough(word: str) -> bool:
    return len(word) >= SHORTEST or (not word.isascii() and len(word.encode("utf-8", "replace")) >= FOREIGN_BYTES)


def residual_scan(
    *, names: Iterable[str], identifiers: Iterable[str], dates: Iterable[str], phrases: Iterable[str]
) -> ResidualScan:
    """A scan for every identifier of at least 4 characters, or fewer in scripts where a name is two.

    Letters beyond ASCII are searched in the encodings of `encoded`, all others also in UTF-16.

    Args:
        names: Person names; each component is searched alone.
        identifiers: Patient IDs, accession numbers and the like.
        dates: Original dates as the header has them; searched in eight spellings.
        phrases: Whole texts such as the institution; searched as they are.
    """
    words = {part for name in names for part in name_parts(name)}
    words |= {value.strip() for value in (*identifiers, *phrases)}
    words = {word.lower() for word in words if _is_long_enough(word) and word.lower() not in PLACEHOLDERS}
    spelled = {form for text in dates for form in _date_forms(text)}
    digits = {word for word in words if word.isdigit()}
    long_numbers = long_identifiers(digits)
    dated = "|".join(re.escape(form) for form in sorted(spelled))
    return ResidualScan(
        in_header=re.compile(
            "|".join([_any_of(words - digits).pattern, *([rf"(?<![0-9])(?:{dated})"] if spelled else [])])
        ),
        in_pixels=tuple(sorted(word.encode() for word in words if len(word) >= PIXEL_SHORTEST)),
        in_numbers=_any_of(digits | long_numbers),
        in_bytes=_any_bytes(word for word in words if not word.isascii()),
        long_numbers=long_numbers,
        as_binary=tuple(int(number).to_bytes(4, "little") for number in sorted(long_numbers) if int(number) < 1 << 32),
    )
