"""Report text without identities: what is known of the study first, then what looks like an identity."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from glint.core.errors import Quarantine
from glint.prepare.deidentify.known_names import (
    folded,
    identifier_spans,
    institution_spans,
    person_spans,
    spellings,
)
from glint.prepare.deidentify.patterns import pattern_spans, protected_spans
from glint.prepare.deidentify.residual import name_parts
from glint.prepare.deidentify.rules import PLACEHOLDERS
from glint.prepare.deidentify.spans import Span, moved, replaced, settle
from glint.prepare.deidentify.words import COMMON, EPONYMS
from glint.prepare.deidentify.written_dates import DateShift, date_spans

SHORTEST_RESIDUE = 4
FindNames = Callable[[str], Iterable[tuple[int, int, str]]]
_WORD = re.compile(r"[^\W\d_]{2,}")
_MASK = re.compile(r"\[[A-Z]+\]|X{3,}|_{3,}")


@dataclass(frozen=True, kw_only=True)
class KnownIdentity:
    """What header and report table say about one study's people, numbers and places."""

    persons: Sequence[str]
    identifiers: Sequence[str]
    institutions: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class CleanText:
    """A text that may leave, and what was replaced.

    Args:
        spans: Where it stood in the original, in order: restricted, as it tells the lengths of what is gone.
        replaced: Where each replacement stands in `text`: `text[start:end]` is what was written there.
    """

    text: str
    spans: tuple[Span, ...]
    replaced: tuple[Span, ...]


def _mask_spans(text: str) -> list[Span]:
    return [Span(match.start(), match.end(), "mask", match[0]) for match in _MASK.finditer(text)]


def _residue(text: str, known: KnownIdentity) -> bool:
    """True if a known name or number still stands in `text`, looked for in another way than it was replaced."""
    plain = folded(text)
    tokens = set("".join(character if character.isalnum() else " " for character in plain).split())
    names = {form for name in known.persons for part in name_parts(name) for form in spellings(part)}
    names = {name for name in names if len(name) >= SHORTEST_RESIDUE} - COMMON - EPONYMS - PLACEHOLDERS
    numbers = {folded(value.strip()) for value in known.identifiers if any(c.isdigit() for c in value)}
    return bool(names & tokens) or any(number in plain for number in numbers if len(number) > SHORTEST_RESIDUE)


def _recognized(text: str, find_names: FindNames, protected: Sequence[Span]) -> Iterator[Span]:
    """What a recognizer adds to the rules; clinical tokens, eponyms and masks are not its to take."""
    for start, end, kind in find_names(text):
        span = Span(start, end, kind, f"[{kind.upper()}]")
        words = {word.lower() for word in _WORD.findall(text[start:end])}
        if words - EPONYMS and not any(span.overlaps(other) for other in protected):
            yield span


def clean_text(text: str, known: KnownIdentity, shift: DateShift, find_names: FindNames | None = None) -> CleanText:
    """Replace names, numbers, places and times by `[KIND]`, and shift dates in the form they are written in.

    Args:
        find_names: An optional recognizer that gives (start, end, kind) of more stretches to replace.

    Raises:
        Quarantine: `residual_identifier`, a known identifier survived.
    """
    protected = protected_spans(text)
    dates = [span for span in date_spans(text, shift) if not any(span.overlaps(other) for other in protected)]
    spans = [
        *person_spans(text, known.persons),
        *identifier_spans(text, known.identifiers),
        *institution_spans(text, known.institutions),
        *(span for span in pattern_spans(text) if not any(span.overlaps(other) for other in dates)),
        *dates,
        *(_recognized(text, find_names, protected + _mask_spans(text)) if find_names else ()),
    ]
    settled = settle(spans, text)
    cleaned = replaced(text, settled)
    if _residue(cleaned, known):
        raise Quarantine("residual_identifier", "a known identifier is still in the report")
    return CleanText(text=cleaned, spans=tuple(settled), replaced=tuple(moved(settled)))
