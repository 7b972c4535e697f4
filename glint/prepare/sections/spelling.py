"""Lower case, single spaces and single-slip spelling repair, with every character's way back to the report."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from glint.prepare.sections.lexicon import load_lexicon

_TOKEN = re.compile(r"\s+|[^\W\d_]{6,}")
_MIN_LETTERS = 7


def corrected(text: str) -> tuple[str, list[int]]:
    """Readable twin of `text` and, for each of its characters, the index of the character it stands for."""
    lowered = _lower(text)
    pieces: list[str] = []
    origin: list[int] = []
    done = 0
    for match in _TOKEN.finditer(lowered):
        start, end, token = match.start(), match.end(), match.group()
        piece = " " if token.isspace() else corrected_word(token)
        if piece == token:
            continue
        pieces += (lowered[done:start], piece)
        origin.extend(range(done, start))
        origin.extend(min(start + i, end - 1) for i in range(len(piece) - 1))
        origin.append(end - 1)
        done = end
    pieces.append(lowered[done:])
    origin.extend(range(done, len(lowered)))
    return "".join(pieces), origin


def _lower(text: str) -> str:
    """Lower case that keeps the number of characters (a Turkish dotted capital would grow)."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


@lru_cache(maxsize=65536)
def corrected_word(word: str) -> str:
    """The lexicon word at edit distance 1 (a swap of neighbours counts as 1), else the word itself."""
    lexicon = load_lexicon()
    if len(word) < _MIN_LETTERS - 1 or word in lexicon.typo_words or word in lexicon.typo_keep:
        return word
    candidates = {target for key in (word, *_deletes(word)) for target in _by_delete().get(key, ())}
    near = sorted(target for target in candidates if within_one_slip(word, target))
    return near[0] if near else word


def within_one_slip(one: str, other: str) -> bool:
    """True for at most one insertion, deletion, substitution or swap of neighbours (Damerau, one step)."""
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1:
        return False
    head = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if len(one) != len(other):
        return one[head:] == other[head + 1 :]
    swapped = one[head : head + 2] == other[head : head + 2][::-1] and one[head + 2 :] == other[head + 2 :]
    return swapped or one[head + 1 :] == other[head + 1 :]


def _deletes(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i in range(len(word))]


@cache
def _by_delete() -> dict[str, tuple[str, ...]]:
    table: dict[str, set[str]] = {}
    for target in load_lexicon().typo_words:
        if len(target) >= _MIN_LETTERS:
            for key in (target, *_deletes(target)):
                table.setdefault(key, set()).add(target)
    return {key: tuple(sorted(targets)) for key, targets in table.items()}
