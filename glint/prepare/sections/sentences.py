"""Sentences of a section, as character spans that round-trip into the report."""

from __future__ import annotations

import re
from collections.abc import Iterator

from glint.prepare.sections.lexicon import load_words

Span = tuple[int, int]

_STOP = re.compile(r"[.?!]+[\"'”’)\]]*(?=\s|$)|(?<=[a-z]{3})\.(?=[A-Z][a-z])|(?<=[a-z]{3})\.(?=\d+[.)]\s)")
_LAST_WORD = re.compile(r"([^\s(\[\"]+?)[.?!]+[\"'”’)\]]*$")
_BULLET = re.compile(r"(?:\(?\d{1,2}[.)](?=\s*[^\d\s])|[-*•·●▪–](?=\s)|[•·●▪])\s*")
_INLINE_BULLET = re.compile(r"\s*[•●▪]\s*|(?<=\s)·\s*|(?:(?<=[.\w])\"|(?<=\s)\")\s+(?=[A-Z])")
_PARENTHESES = re.compile(r"\([^()\n]{0,200}\)|\[[^\[\]\n]{0,40}\]")
_WRAP_WIDTH = 60


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Spans (report characters) of the sentences within `text[start:end]`, without bullets and outer white space.

    A line ends a sentence unless the text is wrapped: the line is nearly as long as the longest (at least 60
    characters), carries no full stop, and the next is no bullet; or the next goes on in lower case.
    """
    stop = len(text) if end is None else end
    found: list[Span] = []
    for a, b in _paragraphs(text, start, stop):
        for c, d in _bulleted(text, a, b):
            found.extend(_trimmed(text, e, f) for e, f in _stops(text, c, d))
    return [(a, b) for a, b in found if any(c.isalnum() for c in text[a:b])]


def _paragraphs(text: str, start: int, stop: int) -> Iterator[Span]:
    lines = [(m.start(), m.end()) for m in re.compile(r"[^\r\n]+").finditer(text, start, stop)]
    if not lines:
        return
    width = max(b - a for a, b in lines)
    begin, last = lines[0]
    for a, b in lines[1:]:
        blank = text.count("\n", last, a) > 1
        if blank or not _continues(text[begin:last], text[a:b], last - text.rfind("\n", 0, last) - 1, width):
            yield begin, last
            begin = a
        last = b
    yield begin, last


def _continues(said: str, line: str, length: int, width: int) -> bool:
    said, line = said.rstrip(), line.lstrip()
    if not line or _BULLET.match(line) or said.endswith((".", "!", "?", ":")):
        return False
    return line[0].islower() or (width >= _WRAP_WIDTH and length >= 0.7 * width)


def _bulleted(text: str, start: int, stop: int) -> Iterator[Span]:
    lead = _BULLET.match(text, start + _blank(text, start, stop), stop)
    begin = lead.end() if lead else start
    for match in _INLINE_BULLET.finditer(text, begin, stop):
        if match.start() > begin:
            yield begin, match.start()
        begin = match.end()
    yield begin, stop


def _blank(text: str, start: int, stop: int) -> int:
    return stop - start - len(text[start:stop].lstrip())


def _stops(text: str, start: int, stop: int) -> Iterator[Span]:
    closed = [m.span() for m in _PARENTHESES.finditer(text, start, stop)]
    begin = start
    for match in _STOP.finditer(text, start, stop):
        if any(a < match.start() < b - 1 for a, b in closed):
            continue
        if not _ends(text, begin, match, stop):
            continue
        yield begin, match.end()
        begin = match.end()
        number = re.compile(r"\s*\(?\d{1,2}[.)]\s+(?=[A-Za-z])").match(text, begin, stop)
        begin = number.end() if number else begin
    if begin < stop:
        yield begin, stop


def _ends(text: str, begin: int, match: re.Match[str], stop: int) -> bool:
    following = text[match.end() : stop].lstrip()
    mark = match.group()[0]
    if mark == "?":
        return not following or not following[0].islower()
    if mark == "!":
        return True
    word = _LAST_WORD.search(text, max(begin, match.start() - 40), match.end())
    last = word.group(1) if word else ""
    if last.lower().strip("(") in load_words().joining:
        return False
    if last.isdigit() and not text[begin : match.start() - len(last)].strip(" \t\"'("):
        return False
    if len(last) == 1 and last.isupper() and _after_name(text, begin, match.start() - 1):
        return False
    if last.lower() in load_words().units:
        return not following or not following[0].islower()
    return True


def _after_name(text: str, begin: int, at: int) -> bool:
    """An initial: the word before it is a title, a capitalised word or another initial."""
    words = text[begin:at].split()
    return bool(words) and (
        words[-1].rstrip(".").lower() in load_words().joining or (len(words) > 1 and words[-1][0].isupper())
    )


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    lead = len(piece) - len(piece.lstrip(" \t\r\n\v\f\xa0\"'“”"))
    trail = len(piece) - len(piece.rstrip(' \t\r\n\v\f\xa0"“”'))
    return (start + lead, max(start + lead, end - trail))
