"""What looks like an identity without being known: phones, numbers, addresses, places, times, great ages."""

import re
from collections.abc import Iterator

from glint.prepare.deidentify.people import people_spans
from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import COMMON, GENERIC_PLACES, NEVER_NAMES

_NUMBER = r"(?:[:#.=]|\b(?:number|num|no|nr)\b\.?|\s|\bis\b)*"
_CODE = r"(?P<hit>[a-z]{0,6}[-./]?\d(?:[\w]|[-./](?=\w)|[ ](?=\d{3}(?:[ ]\d{3,4})?(?!\d|[./]\d)))*)"
_STREETS = r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|way|place|pl|terrace|square|sq|parkway|pkwy|circle|highway|hwy|(?-i:[Pp]arade|PARADE|Gardens|GARDENS|Crescent|CRESCENT|Grove|GROVE|Mews|MEWS|Close))\b\.?"
_TOWN = r"(?:,?\s+(?-i:[A-Z][\w.]+(?:\s[A-Z][\w.]+){0,2}),?\s+(?-i:[A-Z]{2})\s+\d{5}(?:-\d{4})?|,?\s+(?-i:[A-Z]\w+)\s+(?-i:[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}))"
_FLAT = r"(?:,?\s+(?:apt|apartment|suite|unit|flat|#)\.?\s*\w{1,5})"
PLAIN = (
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[EMAIL]"),
    ("url", r"\b(?:https?://|ftp://|www\.)[^\s<>()]*[^\s<>().,;]", "[URL]"),
    (
        "url",
        r"(?<![\w@.-])(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov|info|uk|local)\b(?:/[^\s<>()]*[^\s<>().,;])?",
        "[URL]",
    ),
    ("url", r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\d.]*\d)", "[URL]"),
    ("id", r"(?<![\d.])\d+(?:\.\d+){5,}(?![\d.]*\d)", "[UID]"),
    ("id", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", "[ID]"),
    (
        "id",
        r"\b(?:mrn?|med(?:ical)?\.? rec(?:ord)?|chart|hosp(?:ital)?|unit|report|requisition|study id|study|file|patient id|patient|pt\.? id|pt|acc(?:ession)?|acct|account|"
        r"case|exam|visit|encounter|order|specimen|policy|npi|serial|s/n|nhs|chi|ssn|social security|id|episode|record|"
        rf"uhid|registration|licen[cs]e)\b(?P<mark>{_NUMBER}){_CODE}\b",
        "[ID]",
    ),
    ("id", r"(?<![\w.])(?=[a-z]*\d)[a-z]{0,5}-?\d{6,}(?![\w]|\.\d)", "[ID]"),
    ("id", r"(?<![\w.-])(?-i:[A-Z]{1,4})-?\d{2}-\d{4,7}(?![\w-])", "[ID]"),
    (
        "phone",
        r"(?<![\w.])(?:(?:\+\d{1,3}|1)[\s.-]?)?(?:\(\d{2,4}\)[\s.-]?|\d{3}[\s./-])\d{3}[\s.-]\d{4}(?!\d)"
        r"(?:,?\s*(?:x|ext\.?|extension)\s*\d{2,6})?",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.])\+\d{1,3}(?:[\s.-]?\(?\d{2,4}\)?){3,5}(?!\d)", "[PHONE]"),
    ("phone", r"(?<![\w.-])\(?0\d{2,4}\)?[\s/-]\d{3,4}[\s-]?\d{3,4}(?!\d|[.]\d)", "[PHONE]"),
    (
        "phone",
        r"\b(?:phone|tel|telephone|pager|page|beeper|fax|ext|extension|mobile|bleep|cell)\b(?:[\s.:#]|\b(?:number|no|at)\b)*"
        r"(?P<hit>\d[\d\s.-]{2,}\d)",
        "[PHONE]",
    ),
    ("phone", r"(?<![\w.-])\d{3}-\d{4}(?![\w-]|\s*(?:hu|mm|ml|cc))", "[PHONE]"),
    (
        "address",
        rf"\b\d{{1,5}}[a-z]?[ \t]+(?:(?:[nsew]|north|south|east|west)\b\.?[ \t]+)?(?:\d{{1,3}}(?:st|nd|rd|th)[ \t]+|(?-i:[A-Z][\w'’]+[ \t]+)){{1,3}}{_STREETS}{_FLAT}?{_TOWN}?",
        "[ADDRESS]",
    ),
    ("address", rf"\bp\.?\s?o\.?\s+box\s+\d+{_TOWN}?", "[ADDRESS]"),
    ("address", r"\b(?-i:[A-ZÄÖÜ])[\w-]*(?:straße|strasse|str\.|weg|gasse|platz|allee)\s+\d{1,4}[a-z]?\b", "[ADDRESS]"),
    ("address", r"\b(?-i:[A-Z]\w+(?:\s[A-Z]\w+)?),?\s+(?-i:[A-Z]{2})\s+\d{5}(?:-\d{4})?\b", "[ADDRESS]"),
    (
        "time",
        r"(?:(?<=\d)t)?(?<![\d:.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:\.\d+)?(?:\s*(?:[ap]m|hrs|hours|h|z|noon)\b|\s*[ap]\.m\.)?(?![\d:])",
        "[TIME]",
    ),
    ("time", r"(?<![\d:.])(?:0?\d|1[0-2])(?:\.[0-5]\d)?\s*(?:[ap]m\b|[ap]\.m\.)", "[TIME]"),
    ("time", r"(?<!\d)(?:[01]\d|2[0-3])[0-5]\d\s*(?:hrs?|hours|h)\b", "[TIME]"),
    ("time", r"(?<!\d)(?:[01]?\d|2[0-3])h[0-5]\d\b", "[TIME]"),
    ("time", r"(?<!\d)(?<!the )(?:[1-9]|1[0-2])\s?o['’]clock\b(?!\s*(?:position|location|axis|radian))", "[TIME]"),
    (
        "age",
        r"(?<![\d.])(?P<hit>9\d|1[01]\d)(?=[\s-]*(?:years?|yrs?|y/?\.?o)\b)|(?:\bage[d:]?|\bage\s*[:=])\s*(?P<stated>9\d|1[01]\d)(?![\d.]|\s*(?:mm|cm))",
        "90",
    ),
)
_PLAIN = tuple((kind, re.compile(pattern, re.IGNORECASE), replacement) for kind, pattern, replacement in PLAIN)
_PLACE = re.compile(
    r"(?:(?:[A-Z][\w'’-]*|(?:[A-Z]|S[Tt]|M[Tt])\.|of|and|de)[ \t]+){1,5}"
    r"(?P<kind>(?i:hospitals?|medical\s+cent(?:er|re)|clinic|infirmary|health\s?care|imaging\s+(?:associates|cent(?:er|re)|group|services)|hospice|sanatorium)\b"
    r"(?:[ \t]+(?i:associates|system|trust|group)\b)?)"
)
_PROTECTED = re.compile(
    r"\b(?:[TD](?:[1-9]|1[0-3])|C[1-8]|L[1-6]|S[1-5])(?:[ \t]?[-/–][ \t]?[CTLSD]?\d{1,2})?\b(?!:|-\d{3})"
    r"|\bserial:[ \t]*\d{1,4}\b(?=.{0,12}\bima?ge?)"
    r"|\b(?:series|se|image|images|im|img|slice|slices|frame|station)\.?[ \t]*(?:number|no\.?|#)?[ \t]*\d+(?![\d]*[ -]year)(?:[ \t]*(?:[-,/]|and|to)[ \t]*\d+)*"
    r"|\b\d+(?:\.\d+)?(?:[ \t]*(?:x|×|by|to|-)[ \t]*\d+(?:\.\d+)?){0,2}[ \t]*(?:mm|cm|ml|cc|hu|mgy|msv|kvp?|mas?|mg|%)(?![a-z]|[ \t]*:)"
    r"|\b(?:lung|bi|co|cad|ti|li|pi)-?rads[ \t]*(?:category[ \t]*)?\d\w?"
    r"|\bp?T(?:is|[0-4][a-c]?)[ \t]?N[0-3x][a-c]?(?:[ \t]?M[01x][a-c]?)?\b",
    re.IGNORECASE,
)


def _is_number_of_record(match: re.Match[str]) -> bool:
    """True for at least three digits, four after a word that also counts things ("case 12", "patient 100")."""
    digits = sum(character.isdigit() for character in match["hit"])
    return digits >= 3 and (digits >= 4 or not match["mark"].isspace()) and match["mark"] != ""


def _places(text: str) -> Iterator[Span]:
    """Hospitals and clinics with a name of their own; the words before it that are no name stay."""
    for match in _PLACE.finditer(text):
        start = match.start()
        words = list(re.finditer(r"[^\s]+", text[match.start() : match.start("kind")]))
        for number, word in enumerate(words):
            lower = word[0].strip(".,").lower()
            if lower in NEVER_NAMES - {"general", "critical", "primary"}:
                following = (
                    words[number + 1].start() if number + 1 < len(words) else match.start("kind") - match.start()
                )
                start = match.start() + following
        own = re.findall(r"[^\W\d_]{2,}", text[start : match.start("kind")])
        if any(word.lower() not in COMMON | GENERIC_PLACES | NEVER_NAMES for word in own):
            yield Span(start, match.end(), "institution", "[INSTITUTION]")


def protected_spans(text: str) -> list[Span]:
    """Clinical tokens that look like identifiers: vertebrae, image references, measures, scores, TNM stages."""
    return [Span(match.start(), match.end(), "clinical", match[0]) for match in _PROTECTED.finditer(text)]


def pattern_spans(text: str) -> Iterator[Span]:
    """People by title or label, then numbers, addresses and times by their form; clinical tokens are left alone."""
    yield from people_spans(text)
    yield from _places(text)
    protected = protected_spans(text)
    for kind, pattern, replacement in _PLAIN:
        for match in pattern.finditer(text):
            group = next((name for name in ("hit", "stated") if match.groupdict().get(name)), 0)
            if "mark" in pattern.groupindex and not _is_number_of_record(match):
                continue
            span = Span(match.start(group), match.end(group), kind, replacement)
            if not any(span.overlaps(other) for other in protected):
                yield span
