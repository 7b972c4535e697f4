"""Original identifiers as bytes, in every spelling and encoding that a file may hold; for the audit after a run."""

import re
from collections.abc import Iterable

from glint.prepare.deidentify.encoded import encoded_forms
from glint.prepare.deidentify.residual import name_parts
from glint.prepare.deidentify.rules import PLACEHOLDERS
from glint.prepare.deidentify.values import parse_date

SHORTEST, SHORTEST_ALONE = 4, 6  # shorter words occur inside others and must stand alone
ENCODINGS: tuple[str, ...] = (
    "utf-8",
    "latin-1",
    "iso8859-2",
    "iso8859-5",
    "iso8859-7",
    "koi8-r",
    "iso2022_jp",
    "iso2022_kr",
)
ENCODINGS += ("euc_kr", "shift_jis", "gb18030", "utf-16-le", "utf-16-be")
DATE_FORMS = ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d %b %Y")


def spellings(*, names: Iterable[str], identifiers: Iterable[str], dates: Iterable[str]) -> frozenset[str]:
    """Lower-case texts to look for: parts of names, whole names in both orders, identifiers, dates in nine forms."""
    found: set[str] = set()
    for name in names:
        parts = name_parts(name)
        found |= {*parts, " ".join(parts), " ".join(reversed(parts)), "".join(parts), ", ".join(parts[:2])}
    found |= {text.strip() for text in identifiers}
    for text in dates:
        if (parsed := parse_date(text)) is not None:
            found |= {parsed.strftime(form) for form in DATE_FORMS}
    return frozenset(text.lower() for text in found if len(text) >= SHORTEST and text.lower() not in PLACEHOLDERS)


def byte_pattern(texts: Iterable[str]) -> re.Pattern[bytes]:
    """Matches any of `texts` in any of the encodings; single-byte words under six letters only where they stand alone."""
    alternatives: set[bytes] = set()
    for text in texts:
        for raw in encoded_forms(text):
            alone = (len(text) < SHORTEST_ALONE or text.isdigit()) and raw.isascii() and b"\0" not in raw
            escaped = re.escape(raw)
            alternatives.add(rb"(?<![A-Za-z0-9.])" + escaped + rb"(?![A-Za-z0-9])" if alone else escaped)
    return re.compile(b"|".join(sorted(alternatives)) if alternatives else rb"(?!)")
