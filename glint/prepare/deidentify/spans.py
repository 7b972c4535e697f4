"""Stretches of text to replace, and how overlapping ones are settled."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

JOINING = frozenset(" ,\t.-\n")


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `end` (exclusive) become `replacement`; `kind` is what was found there."""

    start: int
    end: int
    kind: str
    replacement: str

    def overlaps(self, other: "Span") -> bool:
        """True if both share a character."""
        return self.start < other.end and other.start < self.end


def _joined(first: Span, second: Span) -> Span:
    """One span over both, named after the longer: a name inside an address is part of the address."""
    longer = max(first, second, key=lambda span: span.end - span.start)
    whole = (min(first.start, second.start), max(first.end, second.end))
    exact = whole == (longer.start, longer.end)
    replacement = longer.replacement if exact or longer.kind != "date" else "[DATE]"
    return Span(*whole, longer.kind, replacement)


def settle(spans: Iterable[Span], text: str) -> list[Span]:
    """Disjoint spans in order: overlapping ones are united, names that stand side by side become one."""
    settled: list[Span] = []
    for span in sorted(set(spans)):
        previous = settled[-1] if settled else None
        if previous and previous.overlaps(span):
            settled[-1] = _joined(previous, span)
        elif (
            previous
            and previous.kind == span.kind == "name"
            and span.start - previous.end <= 2
            and set(text[previous.end : span.start]) <= JOINING
        ):
            settled[-1] = Span(previous.start, span.end, "name", "[NAME]")
        else:
            settled.append(span)
    return settled


def replaced(text: str, spans: Iterable[Span]) -> str:
    """`text` with every span of a settled list replaced."""
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], span.replacement]
        position = span.end
    return "".join([*parts, text[position:]])


def moved(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans of a settled list where their replacements stand in the output."""
    offset = 0
    for span in spans:
        start = span.start + offset
        yield Span(start, start + len(span.replacement), span.kind, span.replacement)
        offset += len(span.replacement) - (span.end - span.start)
