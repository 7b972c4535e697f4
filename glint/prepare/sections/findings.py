"""What one sentence states: findings with polarity, place, size and span, read by lexicon and scope rules.

Scope in short: a clause ends at ";", "but", "with associated" and their like. A mention is absent if "no" and its kin
precede it in the clause with no statement ("is seen", "there is") in between, or if the next statement after it denies
("was not observed"). Uncertainty works the same way. "No new nodule" says nothing of nodules and yields nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from glint.prepare.sections.lexicon import FindingWords, load_lexicon
from glint.prepare.sections.places import Span, place_mentions
from glint.prepare.sections.spelling import corrected

_LENGTH = r"(\d+(?:[.,]\d+)?)"
_BY = rf"(?:\s*(?:mm|cm)?\s*[x×*]\s*{_LENGTH})?"
_SIZE = re.compile(rf"{_LENGTH}{_BY}{_BY}\s*-?(mm|cm|millimet|centimet)")
_OR = re.compile(r"\s*,?\s*(?:or|vs\.?|versus)\s[\w\s-]{0,30}")
_AND = re.compile(r"\s*,?\s*(?:and|&)\s+(?:(?:left|right|bilateral|bibasilar|basilar|adjacent|underlying)\s+){0,2}")
_UPPER_LIMIT = re.compile(r"upper (?:limits?|range)")
# These say something of the words right before them only.
_ADJACENT = ("possible", "suspected", "questioned", "versus", "vs", "vs.", "absent", "not")
_MAX_SENTENCE = 4000


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement; `start:end` are characters of the sentence that was read."""

    finding: str
    polarity: str
    laterality: str | None
    region: str | None
    size_mm: float | None
    start: int
    end: int
    comparison: str | None = None
    """Words of its clause that compare with an earlier study ("unchanged"), in order, joined by "; "."""


@dataclass(frozen=True, slots=True)
class _Mention:
    words: FindingWords
    start: int
    end: int
    denied: bool


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str
    start: int
    end: int


@lru_cache(maxsize=50_000)
def read_findings(sentence: str) -> tuple[Finding, ...]:
    """Statements of a sentence in order of their spans; a mention at several places yields one statement per place.

    Text beyond 4,000 characters of one "sentence" is not read: no report has such a one, a broken export may.
    """
    text, origin = corrected(sentence[:_MAX_SENTENCE])
    text = load_lexicon().earlier.sub(lambda match: " " * len(match.group()), text)
    clauses = _clauses(text)
    mentions = _mentions(text, clauses)
    if not mentions:
        return ()
    masked = load_lexicon().not_negation.sub(lambda match: "_" * len(match.group()), text)
    before, after = _events(masked, "before"), _events(masked, "after")
    sided = [m for m in mentions if not m.words.midline]
    places = dict(zip(sided, place_mentions(text, [(m.start, m.end) for m in sided], clauses), strict=True))
    found: dict[tuple[str, str, str | None, str | None], Finding] = {}
    for mention in mentions:
        clause = _clause_of(mention, clauses)
        polarity = "absent" if mention.denied else _polarity(masked, mention, mentions, clause, before, after)
        if polarity is None:
            continue
        size_mm = None if mention.words.midline or polarity == "absent" else _size_mm(text, mention, sided, clause)
        start, end = origin[mention.start], origin[mention.end - 1] + 1
        compared = "; ".join(match.group() for match in load_lexicon().comparison.finditer(text, *clause)) or None
        named = sorted({(p.laterality, p.region) for p in places.get(mention, ())}, key=str)
        for laterality, region in named or [(None, None)]:
            key = (mention.words.name, polarity, laterality, region)
            row = Finding(mention.words.name, polarity, laterality, region, size_mm, start, end, compared)
            found.setdefault(key, row)
    placed = {(f.finding, f.polarity) for f in found.values() if f.laterality or f.region}
    return tuple(f for f in found.values() if f.laterality or f.region or (f.finding, f.polarity) not in placed)


def _clauses(text: str) -> list[Span]:
    cuts = [0, *(match.start() for match in load_lexicon().boundary.finditer(text)), len(text)]
    return [(a, b) for a, b in pairwise(cuts) if b > a]


def _clause_of(mention: _Mention, clauses: list[Span]) -> Span:
    return next((c for c in clauses if c[0] <= mention.start < c[1]), (0, mention.end))


def _mentions(text: str, clauses: list[Span]) -> list[_Mention]:
    named: list[_Mention] = []
    generic: list[_Mention] = []
    upper_limit = _UPPER_LIMIT.search(text)
    for words in load_lexicon().words:
        if words.hints and not any(hint in text for hint in words.hints):
            continue
        denials = [m.span() for m in words.absent.finditer(text)] if words.absent and not upper_limit else []
        named += [_Mention(words, a, b, True) for a, b in denials]
        named += [_Mention(words, *m.span(), False) for m in words.patterns.finditer(text)]
        if words.generic:
            generic += [_Mention(words, *m.span(), False) for m in words.generic.finditer(text)]
    named += [g for g in generic if not any(n.start < g.end and g.start < n.end for n in named)]
    kept: list[_Mention] = []
    for mention in sorted(named, key=lambda m: (m.start, -m.end, m.words.name)):
        start, end = _clause_of(mention, clauses)
        start = _opened_by_place(text, start, clauses)
        excluded = mention.words.exclude and mention.words.exclude.search(text, start, max(end, mention.end))
        inside = any(k.words is mention.words and mention.start < k.end for k in kept)
        nested = any(k.start <= mention.start and mention.end <= k.end and _shadows(k, mention) for k in kept)
        if not (excluded or inside or nested):
            kept.append(mention)
    return kept


def _opened_by_place(text: str, start: int, clauses: list[Span]) -> int:
    """Start of the clause, or of the one before where that only names a place: "In the thyroid gland, a nodule"."""
    before = next((c for c in clauses if c[1] == start), None)
    opens = before and text[start : start + 1] == "," and re.match(r"\W*(?:in|at|on|within)\b", text[slice(*before)])
    return before[0] if before and opens else start


def _shadows(longer: _Mention, shorter: _Mention) -> bool:
    """A more specific name hides the plain word inside it: a "ground-glass opacity" is no second opacity.

    A "calcified nodule" is both.
    """
    plain = shorter.words.name in {"lung_opacity", "nodule", "mass", "lymphadenopathy"}
    kept_apart = longer.words.name == "calcification"
    return plain and not kept_apart and longer.end - longer.start > shorter.end - shorter.start


def _events(text: str, direction: str) -> list[_Event]:
    lexicon = load_lexicon()
    pattern = lexicon.before if direction == "before" else lexicon.after
    return [_Event(match.lastgroup or "", match.start(), match.end()) for match in pattern.finditer(text)]


def _polarity(
    text: str, mention: _Mention, mentions: list[_Mention], clause: Span, before: list[_Event], after: list[_Event]
) -> str | None:
    """present, absent, uncertain; None where the words ask, advise or compare and state nothing."""
    lexicon = load_lexicon()
    if lexicon.hypothetical.search(text, clause[0], mention.start):
        return None
    led = _led(text, mention, mentions, clause, before, after)
    followed = _followed(text, mention, clause, before, after)
    if led and led.kind == "absent":
        return None if lexicon.not_denying.match(text, led.start) else "absent"
    if followed and followed.kind == "absent":
        return "absent"
    if (led and led.kind == "uncertain") or (followed and followed.kind == "uncertain"):
        return "uncertain"
    return "uncertain" if _alternative(text, mention, mentions) else "present"


def _led(
    text: str, mention: _Mention, mentions: list[_Mention], clause: Span, before: list[_Event], after: list[_Event]
) -> _Event | None:
    """The word before the mention that governs it, denial above doubt."""
    doubt: _Event | None = None
    reach = mention.start
    for event in reversed(before):
        if event.end > mention.start:
            continue
        if event.start < clause[0] or event.kind == "present":
            break
        if any(event.end <= said.start and said.end <= reach for said in after):
            break
        if event.kind == "absent":
            return event
        if _shares_doubt(text, event, mention, mentions):
            doubt = doubt or event
        reach = event.start
    return doubt


def _shares_doubt(text: str, doubt: _Event, mention: _Mention, mentions: list[_Mention]) -> bool:
    """A doubt reaches over alternatives ("A, B or C") and over what a bare "and" joins ("possible A and B").

    "Possible A, B in the left lung" doubts A alone.
    """
    gap = text[doubt.end : mention.start]
    if not re.search(r",|\band\b", gap) or re.search(r"\bor\b|/", gap):
        return True
    joined = [m for m in mentions if doubt.end <= m.start and m.end <= mention.start]
    return bool(joined) and all(
        _AND.fullmatch(text, first.end, second.start) for first, second in pairwise([*joined, mention])
    )


def _followed(text: str, mention: _Mention, clause: Span, before: list[_Event], after: list[_Event]) -> _Event | None:
    """The statement that follows the mention in its clause ("was not observed", "is possible")."""
    for event in after:
        if event.start < mention.end:
            continue
        if event.start >= clause[1]:
            return None
        gap = text[mention.end : event.start]
        if any(e.kind != "uncertain" and mention.end <= e.start and e.end <= event.start for e in before):
            return None
        word = text[event.start : event.end]
        if word == "?" and ("(" in gap or len(gap) > 40):
            continue
        if word in _ADJACENT and gap.strip():
            continue
        return event
    return None


def _alternative(text: str, mention: _Mention, mentions: list[_Mention]) -> bool:
    """ "Atelectasis or consolidation", not denied: neither is sure."""
    for other in mentions:
        first, second = sorted((mention, other), key=lambda m: m.start)
        if first.words is not second.words and _OR.fullmatch(text, first.end, second.start):
            return True
    return False


def _size_mm(text: str, mention: _Mention, sided: list[_Mention], clause: Span) -> float | None:
    """Largest stated diameter whose nearest mention in the clause is this one."""
    best: float | None = None
    for match in _SIZE.finditer(text, *clause):
        nearest = min(sided, key=lambda m: max(m.start - match.end(), match.start() - m.end, 0))
        if nearest is mention:
            scale = 10.0 if match.group(4).startswith(("cm", "cent")) else 1.0
            size = max(float(value.replace(",", ".")) * scale for value in match.groups()[:3] if value)
            best = size if best is None else max(best, size)
    return best
