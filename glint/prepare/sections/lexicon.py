"""The report lexicon: headers, findings, negation and place words, read once from the data files beside this module."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"
Pattern = re.Pattern[str]


@dataclass(frozen=True, kw_only=True)
class FindingWords:
    """How one finding is named; patterns expect lower-case, spelling-corrected text."""

    name: str
    midline: bool
    patterns: Pattern
    generic: Pattern | None
    absent: Pattern | None
    exclude: Pattern | None
    hints: frozenset[str] | None = None
    """Every text that names the finding holds one of these; None where that can't be told from the patterns."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Compiled word lists. `findings` and `regions` keep the order of the file, which fixes their integer codes."""

    version: str
    findings: tuple[str, ...]
    words: tuple[FindingWords, ...]
    finding_parents: dict[str, str]
    regions: tuple[str, ...]
    region_parents: dict[str, str]
    region_words: Pattern
    side_words: Pattern
    place_words: Pattern
    comparison: Pattern
    before: Pattern
    after: Pattern
    not_negation: Pattern
    earlier: Pattern
    not_denying: Pattern
    hypothetical: Pattern
    boundary: Pattern
    typo_words: frozenset[str]
    typo_keep: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Headers:
    """Header wording (lower case, single spaces) → canonical section, and which sections may start in mid-line."""

    version: str
    canonical: dict[str, str]
    run_in: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Abbreviations that never end a sentence, those that may, and common English words; lower case, no full stop."""

    version: str
    joining: frozenset[str]
    units: frozenset[str]
    english: frozenset[str]


def _words(alternatives: Iterable[str]) -> Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)")


def _named(groups: dict[str, list[str]]) -> Pattern:
    """One pattern whose group names say which list matched; earlier lists win at the same place."""
    body = "|".join(f"(?P<{name}>{'|'.join(alternatives)})" for name, alternatives in groups.items())
    return re.compile(rf"(?:(?<!\w)|(?=\W))(?:{body})(?!\w)")


def _finding(name: str, entry: dict[str, Any]) -> FindingWords:
    return FindingWords(
        name=name,
        midline=entry.get("midline", False),
        patterns=_words(entry["patterns"]),
        generic=_words(entry["generic"]) if "generic" in entry else None,
        absent=_words(entry["absent"]) if "absent" in entry else None,
        exclude=_words([entry["exclude"]]) if "exclude" in entry else None,
        hints=literal_hints("|".join(p for key in ("patterns", "generic", "absent") for p in entry.get(key, ()))),
    )


_MIN_HINT = 3


def literal_hints(pattern: str) -> frozenset[str] | None:
    """Literal pieces of a regular expression, one of which every match holds; None where some match may hold none.

    A look for a piece is many times faster than a search by expression, and nearly every finding is absent from nearly
    every sentence. Reads the subset of expressions that the lexicon uses; what it doesn't know it takes as no piece.
    """
    return _hints_of_branches(pattern, 0)[0]


def _hints_of_branches(pattern: str, i: int) -> tuple[frozenset[str] | None, int]:
    """Hints of the alternatives from `i` up to the closing parenthesis or the end, and where that is."""
    branches: list[frozenset[str] | None] = []
    while True:
        hints, i = _hints_of_branch(pattern, i)
        branches.append(hints)
        if i >= len(pattern) or pattern[i] == ")":
            break
        i += 1
    known = [hints for hints in branches if hints is not None]
    return (frozenset().union(*known) if len(known) == len(branches) else None), i


def _hints_of_branch(pattern: str, i: int) -> tuple[frozenset[str] | None, int]:
    found: list[frozenset[str]] = []
    run = ""
    while i < len(pattern) and pattern[i] not in "|)":
        piece, inner, i = _atom(pattern, i)
        quantifier = _QUANTIFIER.match(pattern, i)
        i = quantifier.end() if quantifier else i
        optional = quantifier is not None and quantifier[0][0] != "+" and not quantifier[0].startswith(("{1", "{2"))
        if piece and not optional:
            run += piece
        if quantifier or not piece:
            found, run = [*found, frozenset({run})], ""
        if inner and not optional:
            found.append(inner)
    found.append(frozenset({run}))
    long = [hints for hints in found if min(map(len, hints)) >= _MIN_HINT]
    return max(long, key=lambda hints: min(map(len, hints)), default=None), i


_QUANTIFIER = re.compile(r"(?:[?*+]|\{\d*,?\d*\})\??")
_GROUP = re.compile(r"\(\?(?:P<\w+>|<?[=!]|:)")
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")


def _atom(pattern: str, i: int) -> tuple[str, frozenset[str] | None, int]:
    """(literal character or "", hints of a group that has to match, where the atom ends)."""
    if pattern[i] == "(":
        head = _GROUP.match(pattern, i)
        inner, end = _hints_of_branches(pattern, head.end() if head else i + 1)
        looks = head is not None and head[0][-1] in "=!"
        return "", None if looks else inner, end + 1
    if pattern[i] == "[":
        skipped = _CLASS.match(pattern, i)
        assert skipped is not None, pattern
        return "", None, skipped.end()
    if pattern[i] == "\\":
        return ("" if pattern[i + 1].isalnum() else pattern[i + 1]), None, i + 2
    return ("" if pattern[i] in ".^$" else pattern[i]), None, i + 1


def _boundaries(patterns: list[str]) -> Pattern:
    """Any of the patterns; those that open a word share one test for it, which lets the engine go by the first letter."""
    opening = [pattern.removeprefix(r"\b") for pattern in patterns if pattern.startswith(r"\b")]
    return re.compile("|".join([rf"\b(?:{'|'.join(opening)})", *(p for p in patterns if not p.startswith(r"\b"))]))


def _literals(findings: dict[str, dict[str, Any]]) -> frozenset[str]:
    """Words spelled out in the finding patterns: they are right as they stand."""
    patterns = [
        p for entry in findings.values() for key in ("patterns", "generic", "absent") for p in entry.get(key, ())
    ]
    return frozenset(word for pattern in patterns for word in re.findall(r"(?<![\\\w])[a-z]{6,}", pattern))


@cache
def load_lexicon() -> Lexicon:
    """Read `data/findings.toml`."""
    data: dict[str, Any] = tomllib.loads((_DATA / "findings.toml").read_text("utf-8"))
    findings: dict[str, dict[str, Any]] = data["findings"]
    regions: dict[str, dict[str, Any]] = data["regions"]
    sides: dict[str, Any] = data["laterality"]
    return Lexicon(
        version=data["version"],
        findings=tuple(findings),
        words=tuple(_finding(name, entry) for name, entry in findings.items()),
        finding_parents={name: entry["parent"] for name, entry in findings.items() if "parent" in entry},
        regions=tuple(regions),
        region_parents={name: entry["within"] for name, entry in regions.items() if "within" in entry},
        region_words=_named({name: entry["words"] for name, entry in regions.items()}),
        side_words=re.compile(
            rf"(?<!\w)(?:(?P<bilateral>{'|'.join(sides['bilateral'])})|(?:(?P<left>{'|'.join(sides['left'])})"
            rf"|(?P<right>{'|'.join(sides['right'])}))(?!\s+(?:{sides['other_organs']})\b))(?!\w)"
        ),
        place_words=re.compile(rf"(?:[\s-]|(?<!\w)(?:{sides['place_words']})(?!\w))*"),
        comparison=_words(data["comparison"]["phrases"]),
        before=_named({key: data[section]["before"] for key, section in _EVENTS.items()}),
        after=_named({key: data[section]["after"] for key, section in _EVENTS.items()}),
        not_negation=_words(data["comparison"]["not_negation"]),
        earlier=re.compile(data["comparison"]["earlier"]),
        not_denying=re.compile(data["comparison"]["not_denying"]),
        hypothetical=_words([data["comparison"]["hypothetical"]]),
        boundary=_boundaries(data["boundary"]["patterns"]),
        typo_words=frozenset(data["typos"]["words"]),
        typo_keep=frozenset(data["typos"]["keep"]) | _literals(findings),
    )


_EVENTS = {"uncertain": "uncertainty", "absent": "negation", "present": "affirmation"}


@cache
def load_headers() -> Headers:
    """Read `data/headers.toml`."""
    data: dict[str, Any] = tomllib.loads((_DATA / "headers.toml").read_text("utf-8"))
    canonical = {header: name for name, headers in data["headers"].items() for header in headers}
    return Headers(version=data["version"], canonical=canonical, run_in=frozenset(data["run_in"]))


@cache
def load_words() -> Words:
    """Read `data/words.toml`."""
    data: dict[str, Any] = tomllib.loads((_DATA / "words.toml").read_text("utf-8"))
    lists = {name: frozenset(data[name]) for name in ("joining", "units", "english")}
    return Words(version=data["version"], **lists)


def lexicon_version() -> str:
    """Versions of the data files, for the digests of what is made with them."""
    return f"headers {load_headers().version}, findings {load_lexicon().version}, words {load_words().version}"
