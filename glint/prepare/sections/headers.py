"""Sections of a free-text report, found by its headers, with character offsets that round-trip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from glint.prepare.sections.lexicon import load_headers
from glint.prepare.sections.spelling import within_one_slip

UNSECTIONED = "unsectioned"
FINDING_SECTIONS = frozenset({"findings", "impression", "findings_impression", UNSECTIONED})
_BODY = frozenset({"findings", "findings_impression"})
# Headers of one paragraph: what follows a blank line after "Accession: …" or "Signed by: …" belongs to nobody.
_SHORT = frozenset({"examination", "signature"})

# "  2. FINDINGS AND IMPRESSION:" or the whole line "Findings"; letters, spaces and / & , ( ) # digits in between.
_LINE_START = re.compile(
    r"^[ \t]*\**[ \t]*(?:\(?(?:\d{1,2}|[IVX]{1,4})[.)][ \t]+)?"
    r"(?P<header>[A-Za-z][A-Za-z /&,()#\d-]{1,48}?)"
    r"(?:\*\*)?[ \t]*(?:[:：](?:\*\*)?|(?P<sole>(?=\r?$)))",
    re.MULTILINE,
)
_RUN_IN = re.compile(
    r"(?<=[.?!)\]\"])[ \t]+(?P<header>[A-Z][A-Za-z]+(?:[ /&]+(?:and |AND )?[A-Za-z]+){0,3})[ \t]*:(?=\s)"
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_MIN_FUZZY = 7


@dataclass(frozen=True, slots=True)
class Section:
    """`text[start:end]` is the section's content without its header and outer white space; `header` as written."""

    section: str
    header: str
    start: int
    end: int


def find_sections(text: str) -> list[Section]:
    """Every section in order of the text, repeated ones too; a report without headers is one `unsectioned`.

    Text under no header is `unsectioned` in a report without a findings header (many put only the impression under
    one), else `examination`: a title. `unsectioned` is never called findings.
    """
    headers = _headers(text)
    names = {name for name, _, _ in headers}
    first = headers[0][1] if headers else len(text)
    orphan = "examination" if names & _BODY else UNSECTIONED
    found = [_section(text, orphan, "", 0, first)]
    stops = [*(begin for _, begin, _ in headers[1:]), len(text)]
    for (name, begin, end), stop in zip(headers, stops, strict=False):
        blank = _BLANK_LINE.search(text, end, stop) if name in _SHORT else None
        cut = blank.start() if blank else stop
        found.append(_section(text, name, text[begin:end].strip(" \t*:："), end, cut))
        found.append(_section(text, orphan, "", cut, stop))
    return [section for section in found if section.end > section.start]


def _headers(text: str) -> list[tuple[str, int, int]]:
    """(canonical name, start of the header, end of the header) in order, without overlaps."""
    run_in = load_headers().run_in
    found: dict[int, tuple[str, int, int]] = {}
    for match in _LINE_START.finditer(text):
        name = canonical_section(match["header"])
        if name and not (match["sole"] is not None and name not in run_in):
            found[match.start("header")] = (name, match.start(), match.end())
    for match in _RUN_IN.finditer(text):
        name = canonical_section(match["header"])
        if name in run_in:
            found.setdefault(match.start("header"), (name or "", match.start("header"), match.end()))
    ordered = sorted(found.values(), key=lambda item: item[1])
    return [item for i, item in enumerate(ordered) if i == 0 or item[1] >= ordered[i - 1][2]]


@lru_cache(maxsize=65536)
def canonical_section(header: str) -> str | None:
    """Canonical name of a header as written, one slip of the keyboard forgiven in seven letters or more; else None."""
    known = load_headers().canonical
    plain = " ".join(re.sub(r"\(.*?\)|#?\d+$", " ", header.lower()).split()).strip(" -,")
    if plain in known:
        return known[plain]
    if re.fullmatch(r"addendum\b.*", plain) and len(plain) < 40:
        return "addendum"
    if len(plain) < _MIN_FUZZY:
        return None
    near = sorted({name for word, name in known.items() if len(word) >= _MIN_FUZZY and within_one_slip(plain, word)})
    return near[0] if near else None


def _section(text: str, name: str, header: str, start: int, end: int) -> Section:
    content = text[start:end]
    lead = len(content) - len(content.lstrip())
    return Section(name, header, start + lead, max(start + lead, end - (len(content) - len(content.rstrip()))))
