"""Find a study's own names and numbers in its report, whatever their order, case, accents or spelling."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from glint.prepare.deidentify.residual import name_parts
from glint.prepare.deidentify.rules import PLACEHOLDERS
from glint.prepare.deidentify.spans import Span
from glint.prepare.deidentify.words import COMMON, EPONYMS, GENERIC_PLACES

EXPANDED = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "œ": "oe", "ß": "ss"}
FUZZY_LETTERS = 6  # one wrong letter is forgiven in names at least this long
SHORTEST_PART = 2
COMMON_OR_EPONYM = COMMON | EPONYMS
SHORTEST_NUMBER = 5
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_TITLE_BEFORE = re.compile(r"\b(?:dr|drs|mr|mrs|ms|miss|prof|doctor|professor)\.?\s+$", re.IGNORECASE)
_INITIAL_BEFORE = re.compile(r"\b(?:[A-Z]\.?\s?[A-Z]['’]|[A-Z](?:\.?\s|\.|['’]))$")
_INITIAL_AFTER = re.compile(r",?\s([A-Z])(\.|(?!\w))(?=[\s,;:.)]|$)")
_BESIDE = re.compile(r"[\s,.'’-]{0,3}(?:[A-Z](?:\.?,?\s+|['’]))?")
_FINDING_AFTER = re.compile(
    r"(?:['’]s)?[\s-](?:[a-z][\s-])?(?:\w+[\s-])?(?:granulomatosis|lymphoma|disease|syndrome|nodes?|lines?|signs?|hump|hernias?|"
    r"catheter|groove|tumou?r|cells?|complex|units?|fracture|contour|score|criteria|classification|type|line|fissure|"
    r"sarcoma|anaemia|anemia|tube|drain|aneurysm|ulcer|effect)\b|-\w",
    re.IGNORECASE,
)


def folded(text: str) -> str:
    """Lower case without accents, one character for one character, so that positions stay."""
    return text.lower() if text.isascii() else "".join(map(_folded_character, text))


@cache
def _folded_character(character: str) -> str:
    return unicodedata.normalize("NFKD", character)[0].lower()[:1] or character


def spellings(part: str) -> set[str]:
    """Folded ways to write one component of a name."""
    lower = part.lower()
    expanded = "".join(EXPANDED.get(character, character) for character in lower)
    return {form for form in (folded(lower), folded(expanded), folded(part)) if len(form) >= SHORTEST_PART}


def _within_one_edit(first: str, second: str) -> bool:
    """True if one letter inserted, dropped, changed or swapped with its neighbour makes one word the other."""
    if abs(len(first) - len(second)) > 1:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    rest_first, rest_second = first[start:], second[start:]
    return (
        rest_first[1:] == rest_second[1:]
        or rest_first[1:] == rest_second
        or rest_first == rest_second[1:]
        or (rest_first[:2] == rest_second[:2][::-1] and rest_first[2:] == rest_second[2:])
    )


def _mid_sentence_capital(text: str, start: int) -> bool:
    before = text[:start].rstrip()
    return text[start].isupper() and bool(before) and before[-1] not in '.:;!?\n"“•*-–(' and not text.isupper()


def _sure(text: str, match: re.Match[str], word: str) -> bool:
    """False for a word that reports use anyway, unless its place says that it is a name here."""
    before = text[max(0, match.start() - 30) : match.start()]
    if word in COMMON or len(word) < 3:
        initial = text[match.start()].isupper() and _INITIAL_BEFORE.search(before)
        return _mid_sentence_capital(text, match.start()) or bool(initial or _TITLE_BEFORE.search(before))
    return word not in EPONYMS or bool(_TITLE_BEFORE.search(before)) or not _FINDING_AFTER.match(text, match.end())


def person_spans(text: str, names: Sequence[str]) -> list[Span]:
    """Components of known persons' names, each as a span of kind `name`; initials beside them are included."""
    wanted = {form for name in names for part in name_parts(name) for form in spellings(part)} - PLACEHOLDERS
    initials = {part[0].upper() for name in names for part in name_parts(name)}
    long_forms = [form for form in wanted if len(form) >= FUZZY_LETTERS]
    plain = folded(text)
    sure: list[Span] = []
    doubtful: list[Span] = []
    for match in _WORD.finditer(plain):
        word = match[0]
        stem = word if word in wanted else next((f for f in wanted if len(f) > 3 and word == f + "s"), "")
        span = Span(match.start(), match.end(), "name", "[NAME]")
        if stem:
            (sure if _sure(text, match, stem) else doubtful).append(span)
        elif (
            len(word) >= FUZZY_LETTERS - 1
            and text[match.start()].isupper()
            and word not in COMMON_OR_EPONYM
            and any(_within_one_edit(word, form) for form in long_forms)
        ):
            sure.append(span)
    beside = [
        span
        for span in doubtful
        if any(_are_beside(text, span, other) for other in (*sure, *doubtful) if other != span)
    ]
    return [_with_initials(text, span, initials) for span in sorted({*sure, *beside})]


def _are_beside(text: str, span: Span, other: Span) -> bool:
    """True if nothing but a separator or an initial stands between two words."""
    first, second = sorted((span, other))
    return second.start - first.end <= 6 and bool(_BESIDE.fullmatch(text, first.end, second.start))


def _with_initials(text: str, span: Span, initials: set[str]) -> Span:
    before = _INITIAL_BEFORE.search(text, max(0, span.start - 6), span.start)
    after = _INITIAL_AFTER.match(text, span.end)
    if after and not after[2] and after[1] not in initials:
        after = None
    return Span(before.start() if before else span.start, after.end() if after else span.end, "name", "[NAME]")


def _loose(value: str) -> str:
    """A pattern for a number or code with or without separators between its letters, digits and groups."""
    pieces = re.findall(r"[a-z]+|\d+", folded(value))
    return r"[\s./#:-]{0,2}".join(map(re.escape, pieces))


def identifier_spans(text: str, identifiers: Iterable[str]) -> Iterator[Span]:
    """Known IDs, accession numbers and phone numbers of at least 4 characters, and long digit runs within them."""
    patterns = set()
    for value in identifiers:
        stripped = value.strip()
        digits = re.findall(r"\d{5,}", stripped)
        if len(stripped) >= 4 and stripped.lower() not in COMMON | PLACEHOLDERS and (digits or not stripped.isalpha()):
            patterns.add(_loose(stripped))
        patterns.update(digits)
        patterns.update(run.lstrip("0") for run in digits if len(run.lstrip("0")) >= SHORTEST_NUMBER)
    if patterns:
        either = "|".join(sorted(patterns, key=len, reverse=True))
        for match in re.finditer(rf"(?<![a-z0-9])(?:{either})(?![a-z0-9])|(?<!\d)(?:{either})(?!\d)", folded(text)):
            yield Span(match.start(), match.end(), "id", "[ID]")


def institution_spans(text: str, institutions: Iterable[str]) -> Iterator[Span]:
    """Known institutions and departments: the whole text, and the distinctive words of it as a phrase."""
    phrases = set()
    for value in institutions:
        words = re.findall(r"\w+", folded(value))
        distinctive = [word for word in words if word not in GENERIC_PLACES]
        if len(words) > 1 or (words and words[0] not in COMMON and len(words[0]) > 3):
            phrases.add(tuple(words))
        if len(distinctive) > 1 and not set(distinctive) <= COMMON:
            phrases.add(tuple(distinctive))
    for phrase in sorted(phrases, key=len, reverse=True):
        pattern = r"\W{1,3}".join(map(re.escape, phrase)) + r"(?:\s+(?:hospital|clinic|medical cent(?:er|re)))?"
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", folded(text)):
            yield Span(match.start(), match.end(), "institution", "[INSTITUTION]")
