"""What looks like an identity without being known: titles with names, signatures, phones, numbers, addresses."""

import re
from collections.abc import Iterator

from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import COMMON, CREDENTIALS, PARTICLES

_TITLE = re.compile(
    r"\b(?:(?i:drs?|mrs|ms|mr|miss|prof|professor|doctor)\b\.?|Nurse|Sister)(?=\s|[A-Z])\s*(?:(?i:dr|prof)\.?\s+)?"
)
_ROLES = (
    r"attending|radiologist|resident|fellow|technologist|radiographer|operator|consultant|physician|provider|surgeon|"
    r"referr?er|clinician|nurse|author|reader|transcriptionist|patient|name|cc|gp|signed|dictated|signature|copy to"
)
_LABEL = re.compile(
    rf"\b(?:(?:{_ROLES})(?:\s+(?:name|physician|radiologist|doctor|clinician))?\s*[:=]\s*|"
    r"(?:dictated|signed|read|reported|interpreted|transcribed|typed|reviewed|verified|approved|authored|finali[sz]ed|"
    r"performed|requested|ordered|referred|prepared|attested|validated|electronically)\s+"
    r"(?:and\s+\w+\s+)?(?:electronically\s+)?by\s*:?\s*|"
    r"(?:discussed|communicated|shared|reviewed|conveyed|relayed|phoned|called|telephoned|spoke|spoken)"
    r"(?:\s+[a-z]+){0,4}?\s+(?:with|to|by)\s+|signed[,:]\s*)",
    re.IGNORECASE,
)
_NAME_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_LOWER_WORD = re.compile(r"[a-z'-]{3,}")
_COLON = re.compile(r"\s*:")
_GAP = re.compile(r"[ \t]*\n?[ \t]*")
_GAP_WITH_COMMA = re.compile(r"[ \t]*,[ \t]*|[ \t]*\n?[ \t]*")
_INITIAL = re.compile(r"[A-Z]\.(?=\s|[A-Z])|[A-Z](?=\s+[A-Z][a-z])")
_CREDENTIALS = re.compile(CREDENTIALS)
LONGEST_RUN = 4
PLAIN = (
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[EMAIL]"),
    ("url", r"\b(?:https?://|www\.)[^\s<>()]*[^\s<>().,;]", "[URL]"),
    ("id", r"(?<![\d.])\d+(?:\.\d+){5,}(?![\d.])", "[UID]"),
    ("id", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", "[ID]"),
    (
        "id",
        r"\b(?:mrn|medical record(?: number| no\.?)?|patient (?:id|number|no\.?)|acc(?:ession)?(?: number| no\.?| #)?|"
        r"account|case (?:number|no\.?)|nhs (?:number|no\.?)|ssn|id|episode|order)\s*[:#]?\s*#?"
        r"(?P<hit>(?=[a-z-]{0,6}\d)[a-z0-9][a-z0-9-]{3,})\b",
        "[ID]",
    ),
    ("id", r"(?<![\w.])(?=[a-z]*\d)[a-z]{0,5}-?\d{6,}(?![\w]|\.\d)", "[ID]"),
    (
        "phone",
        r"(?<![\w.])(?:\+\d{1,3}[\s.-]?)?(?:\(\d{2,4}\)[\s.-]?|\d{3}[\s.-])\d{3}[\s.-]\d{4}(?!\d)",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.])\+\d{1,3}(?:[\s.-]?\d{2,4}){3,5}(?!\d)", "[PHONE]"),
    (
        "phone",
        r"\b(?:phone|tel|telephone|pager|page|beeper|fax|ext|extension|mobile|bleep)\b[\s.:#]*(?P<hit>\d[\d\s.-]{2,}\d)",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.-])\d{3}-\d{4}(?![\w-]|\s*(?:hu|mm|ml|cc))", "[PHONE]"),
    (
        "address",
        r"\b\d{1,5}\s+(?-i:[A-Z]\w+\s+){1,3}(?:street|st|avenue|ave|road|rd|lane|ln|drive|boulevard|blvd|court)\b\.?",
        "[ADDRESS]",
    ),
    (
        "time",
        r"(?<![\d:.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:\s*(?:[ap]m|hrs|hours|h)\b|\s*[ap]\.m\.)?(?![\d:])",
        "[TIME]",
    ),
    ("time", r"(?<![\d:.])(?:0?\d|1[0-2])(?:\.[0-5]\d)?\s*(?:[ap]m\b|[ap]\.m\.)", "[TIME]"),
    ("time", r"(?<!\d)(?:[01]\d|2[0-3])[0-5]\d\s*(?:hrs|hours)\b", "[TIME]"),
    ("age", r"(?<!\d)(?P<hit>9\d|1[01]\d)(?=[\s-]*(?:years?|yrs?|y/?o)\b)", "90"),
)
_PLAIN = tuple((kind, re.compile(pattern, re.IGNORECASE), replacement) for kind, pattern, replacement in PLAIN)
_PROTECTED = re.compile(
    r"\b[CTLS]\d{1,2}(?:\s?[-/–]\s?[CTLS]?\d{1,2})?\b"
    r"|\b(?:series|se|image|images|im|img|slice|slices|frame|station)\.?\s*(?:number|no\.?|#)?\s*\d+(?:\s*(?:[-,/]|and|to)\s*\d+)*"
    r"|\b\d+(?:\.\d+)?(?:\s*(?:x|×|by|to|-)\s*\d+(?:\.\d+)?){0,2}\s*(?:mm|cm|ml|cc|hu|mgy|msv|kvp?|mas?|mg|%)(?![a-z])"
    r"|\b(?:lung|bi|co|ti|li|pi)-?rads\s*(?:category\s*)?\d\w?"
    r"|\bp?T(?:is|[0-4][a-c]?)\s?N[0-3x][a-c]?(?:\s?M[01x][a-c]?)?\b",
    re.IGNORECASE,
)


def _name_word(text: str, position: int) -> re.Match[str] | None:
    """A capitalised word or a particle that can belong to a name, not followed by a colon as headers are."""
    word = _NAME_WORD.match(text, position)
    if word is None or _COLON.match(text, word.end()):
        return None
    lower = word[0].lower()
    if lower in PARTICLES:
        return word
    return word if word[0][0].isupper() and lower not in COMMON else None


def _run_end(text: str, start: int, *, comma: bool) -> int:
    """Where a run of name words from `start` ends; `start` itself if none begins there."""
    end, words = start, 0
    while words < LONGEST_RUN:
        gap = _GAP_WITH_COMMA if comma and words == 1 else _GAP
        skipped = gap.match(text, end) if end > start else None
        position = skipped.end() if skipped else end
        if initial := _INITIAL.match(text, position):
            end = initial.end()
            continue
        word = _name_word(text, position)
        if word is None or (words and word[0].isupper() and "\n" in text[end:position]):
            break  # capitals on the next line are a header, not a name
        words += word[0].lower() not in PARTICLES
        end = word.end()
    if not words:
        return start
    credentials = _CREDENTIALS.match(text, end)
    return credentials.end() if credentials else end


def _people(text: str) -> Iterator[Span]:
    for title in _TITLE.finditer(text):
        end = _run_end(text, title.end(), comma=False)
        lower = _LOWER_WORD.match(text, title.end()) if title[0][:1].islower() and end == title.end() else None
        if lower is not None and lower[0] not in COMMON:  # all in lower case: one word is taken
            end = lower.end()
        if end > title.end():
            yield Span(title.end(), end, "name", "[NAME]")
    for label in _LABEL.finditer(text):
        titled = _TITLE.match(text, label.end())
        start = titled.end() if titled else label.end()
        end = _run_end(text, start, comma=True)
        if end > start:
            yield Span(start, end, "name", "[NAME]")


def protected_spans(text: str) -> list[Span]:
    """Clinical tokens that look like identifiers: vertebrae, image references, measures, scores, TNM stages."""
    return [Span(match.start(), match.end(), "clinical", match[0]) for match in _PROTECTED.finditer(text)]


def pattern_spans(text: str) -> Iterator[Span]:
    """People by title or label, then numbers, addresses and times by their form; clinical tokens are left alone."""
    yield from _people(text)
    protected = protected_spans(text)
    for kind, pattern, replacement in _PLAIN:
        for match in pattern.finditer(text):
            group = "hit" if "hit" in pattern.groupindex else 0
            span = Span(match.start(group), match.end(group), kind, replacement)
            if not any(span.overlaps(other) for other in protected):
                yield span
