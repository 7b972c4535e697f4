"""People whom nothing announces: by a given name, by an initial, or as the whole of a line with a label of a person."""

import re
from collections.abc import Iterator

from glint.prepare.deidentify.known_names import folded
from glint.prepare.deidentify.people import ends_like_a_name, run_of_names
from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import EPONYMS, GIVEN, NEVER_NAMES, NO_FAMILY, PARTICLES, may_be_a_name

_CAPITALISED = re.compile(r"(?<![\w'’-])[^\W\d_a-z][^\W\d_]*(?:[-'’][^\W\d_]+)*")
_FAMILY_BEFORE = re.compile(
    r"(?:(?:[^\W\d_][\w'’-]*|St\.)[ \t]+){0,2}(?P<family>[^\W\d_a-z][\w'’-]+),[ \t]+(?:[A-Z]\.?[ \t]+)?$"
)
_INITIALS = re.compile(r"(?<![\w.'’-])(?:[A-Z]\.[ \t]?-?){1,3}(?=[^\W\d_])")
_LABEL = re.compile(
    r"(?:^|(?<=[.;][ \t]))[ \t]*(?P<label>[^\W\d_][\w./() -]{1,40}?)[ \t]*(?::|[ \t][-–—]|\.{2,})[ \t]*(?=[^\W\d_a-z]|(?:van|von|de|el|al|bin)\b)",
    re.MULTILINE,
)
_ABOUT_PEOPLE = re.compile(
    r"(?i)read|report|dictat|sign|transcri|draft|duty|typ(?:ed|ist)|interpret|attend|physician|radiolog|radiograph|technolog|\btech\b|"
    r"resident|fellow|registrar|author|review|verif|approv|final|prelim|staff|operator|nurse|doctor|\bdr\b|consult|provider|"
    r"\bby\b|name|patient|\bpt\b|contact|relative|\bkin\b|guardian|carer|spouse|witness|informed|notif|\bcc\b|copy|\bto\b|\bfrom\b|"
    r"attn|attention|request|order|refer|clinician|surgeon|practitioner|\bgp\b|perform|supervis|assist|author|scrib|discuss|"
    r"communicat|recipient|caller|person|partner|mother|father|wife|husband|son|daughter|sister|brother|interpreter|translator"
)
_HEADER = re.compile(
    r"(?i)finding|impression|techni(?:que|cal)|comparison|indication|history|conclusion|recommend|exam|view|procedure"
)
_ROLE = re.compile(
    r"\b(?i:patient|pt|interpreter|translator|nurse|sister|matron|resident|registrar|fellow|technologist|radiographer|sonographer|carer|"
    r"colleague|midwife|physiotherapist|paramedic|porter|student|surgeon|consultant|gp|supervision of|care of|[a-z]{3,}(?:ed|en)[ \t]+(?:to|by|with|from|for)|behalf of|(?:handed|given) over to|"
    r"(?:scan|film|image|study|ct|radiograph|x-ray) of)[ \t]+(?=[^\W\d_a-z])"
)
_SHOUTED = re.compile(
    r"(?<![\w.'’-])[^\W\d_a-z]{2,}(?:[-'’][^\W\d_a-z]+)*(?:,?[ \t]+(?:[A-Z]\.[ \t]+)?[^\W\d_a-z]{2,}(?:[-'’][^\W\d_a-z]+)*){1,3}(?![\w:-]|[ \t]*:)"
)
_LINE_ENDS = re.compile(r"[ \t.,;]*(?:\n|$)|[ \t]*[,(/@|][^\n]{0,40}(?:\n|$)|[ \t]+(?:on|at|\d)[^\n]{0,40}(?:\n|$)")
_NO_INITIAL_AFTER = re.compile(
    r"(?i)\b(?:hepatitis|vitamin|type|class|stage|segment|part|group|grade|level|series|protein|kerley|stanford|figure|fig|"
    r"factor|point|lead|zone|arm|cohort|category|coenzyme|influenza|plan|phase|column|panel|sequence)[ \t]+$"
)
AROUND = 16  # characters to either side
_SPECIES = frozenset(
    [
        "abscessus",
        "albicans",
        "aeruginosa",
        "aureus",
        "avium",
        "baumannii",
        "catarrhalis",
        "coli",
        "difficile",
        "faecalis",
        "fumigatus",
        "gattii",
        "influenzae",
        "jirovecii",
        "kansasii",
        "marcescens",
        "neoformans",
        "niger",
        "pneumoniae",
        "pneumophila",
        "pyogenes",
        "tuberculosis",
        "psittaci",
        "burnetii",
    ]
)


def _long(words: list[str]) -> list[str]:
    return [word for word in words if len(word.rstrip(".")) > 1]


def _by_given_name(text: str) -> Iterator[Span]:
    """A listed given name with another name beside it, in either order."""
    for match in _CAPITALISED.finditer(text):
        parts = folded(match[0]).split("-")
        if parts[0] not in GIVEN and parts[-1] not in GIVEN:
            continue
        before = _FAMILY_BEFORE.search(text, max(0, match.start() - 60), match.start())
        family = folded(before["family"]) if before else ""
        if before and family not in NEVER_NAMES and (family not in NO_FAMILY or _opens(text, before.start("family"))):
            start = before.start("family")
            for word in re.finditer(r"[^\s]+", text[before.start() : before.start("family")]):
                if word[0].lower() in PARTICLES or word[0] == "St.":
                    start = before.start() + word.start()
                    break
            yield Span(start, match.end(), "name", "[NAME]")
        end, words = run_of_names(text, match.start())
        others = [word for word in _long(words)[1:] if may_be_a_name(word)]
        whole = len(words) > 1 and (
            others or (ends_like_a_name(text, end) and not set(map(folded, words[1:])) & EPONYMS)
        )
        if end > match.end() and whole:
            yield Span(match.start(), end, "name", "[NAME]")


def _opens(text: str, start: int) -> bool:
    """True at the start of a line, after a colon, or after "by"."""
    before = text[max(0, start - 4) : start].rstrip(" \t")
    return not before or before[-1] in ":\n-–" or before.endswith("by")


def _by_initial(text: str) -> Iterator[Span]:
    """`K. Nieminen` within a sentence, or as all of a line or of what stands behind a label."""
    for match in _INITIALS.finditer(text):
        end, words = run_of_names(text, match.start())
        long = _long(words)
        if (
            not long
            or folded(long[0]) in _SPECIES
            or _NO_INITIAL_AFTER.search(text, max(0, match.start() - 20), match.start())
        ):
            continue
        before = text[: match.start()].rstrip(" \t")
        inside = bool(before) and (before[-1].isalnum() or before[-1] in ",(/&")
        if (inside and folded(long[0]) not in NO_FAMILY) or (
            (not before or before[-1] in "\n:-–—") and _LINE_ENDS.match(text, end)
        ):
            yield Span(match.start(), end, "name", "[NAME]")


def _by_label(text: str) -> Iterator[Span]:
    """Two words or more that are all of a line behind a label which speaks of people; one that no report uses otherwise."""
    for label in _LABEL.finditer(text):
        if not _ABOUT_PEOPLE.search(label["label"]):
            continue
        end, words = run_of_names(text, label.end())
        if end == label.end() or _HEADER.search(label["label"]):
            continue
        shouted = text[label.end() : end].isupper() and _is_shouted(text, label.end(), end)
        if not _LINE_ENDS.match(text, end) and (shouted or len(words) < 2):
            continue
        unusual = [word for word in _long(words) if may_be_a_name(word)]
        if unusual and (len(words) > 1 or len(unusual[0]) > 2):
            yield Span(label.end(), end, "name", "[NAME]")


def _is_shouted(text: str, start: int, end: int) -> bool:
    """True where what surrounds a stretch is in capitals too, so that capitals tell nothing."""
    around = text[max(0, start - AROUND) : start] + text[end : end + AROUND]
    return sum(map(str.islower, around)) < sum(map(str.isupper, around))


def _by_role(text: str) -> Iterator[Span]:
    """`Interpreter J. Hall`, `the scan of Maja Zoric`: two words or more right after who it is."""
    for role in _ROLE.finditer(text):
        end, words = run_of_names(text, role.end())
        unusual = [word for word in _long(words) if may_be_a_name(word)]
        initial = any(len(word.rstrip(".")) == 1 for word in words)
        if (
            len(words) > 1
            and (unusual or (initial and ends_like_a_name(text, end)))
            and not _is_shouted(text, role.end(), end)
        ):
            yield Span(role.end(), end, "name", "[NAME]")


def _by_capitals(text: str) -> Iterator[Span]:
    """Two words or more in capitals within an ordinary sentence, none of them of a report, one long: no abbreviation."""
    for match in _SHOUTED.finditer(text):
        words = [folded(word) for word in re.findall(r"[^\W\d_]{2,}", match[0])]
        usual = [word for word in words if not may_be_a_name(word)]
        after_header = text[: match.start()].rstrip(" \t")[-1:] == ":"
        if (
            not usual
            and not after_header
            and any(len(word) > 4 for word in words)
            and not _is_shouted(text, *match.span())
        ):
            yield Span(match.start(), match.end(), "name", "[NAME]")


def listed_name_spans(text: str) -> Iterator[Span]:
    """Names by what they are, wherever they stand."""
    yield from _by_role(text)
    yield from _by_capitals(text)
    yield from _by_given_name(text)
    yield from _by_initial(text)
    yield from _by_label(text)
