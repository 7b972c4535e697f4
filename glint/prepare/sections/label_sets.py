"""Public label sets answered from the findings of a report: which labels of CT-RATE, CheXpert, NIH, … it states."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from glint.prepare.sections.lexicon import load_lexicon

_DATA = Path(__file__).parent / "data" / "label_sets.toml"
_CONTEXT = 40
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One label: any of `findings` (nested ones included) whose span, context and sentence hold the expressions, if any.

    `uncertain` where the set's makers counted hedged findings as positive, but for those whose sentence holds `too_weak`.
    """

    findings: frozenset[str]
    none_of: frozenset[str]
    uncertain: bool
    too_weak: re.Pattern[str] | None
    words: re.Pattern[str] | None
    context: re.Pattern[str] | None
    sentence: re.Pattern[str] | None


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Labels by name."""

    source: str
    labels: dict[str, Label]


@cache
def load_label_sets() -> dict[str, LabelSet]:
    """Read `data/label_sets.toml`, keyed by the set's name."""
    data: dict[str, Any] = tomllib.loads(_DATA.read_text("utf-8"))
    return {
        name: LabelSet(
            source=entry["source"],
            labels={
                label: _label(
                    {"too_weak": entry["too_weak"], **value} if "too_weak" in entry else value, entry["uncertain"]
                )
                for label, value in entry["labels"].items()
            },
        )
        for name, entry in data["sets"].items()
    }


def _label(entry: dict[str, Any], uncertain: bool) -> Label:
    def expression(key: str) -> re.Pattern[str] | None:
        return re.compile(entry[key], re.IGNORECASE) if key in entry else None

    return Label(
        findings=with_children(entry.get("findings", ())),
        none_of=with_children(entry.get("none_of", ())),
        uncertain=entry.get("uncertain", uncertain),
        too_weak=expression("too_weak"),
        words=expression("words"),
        context=expression("context"),
        sentence=expression("sentence"),
    )


def with_children(names: Iterable[str]) -> frozenset[str]:
    """The findings and all that nest below them."""
    parents = load_lexicon().finding_parents
    known = set(names)
    while more := {child for child, parent in parents.items() if parent in known} - known:
        known |= more
    return frozenset(known)


def report_labels(sentences: Sequence[Row], findings: Iterable[Row], labels: LabelSet) -> dict[str, bool]:
    """Which labels one report states; rows as `parse_report` gives them, sentences in order of `sentence_index`."""
    stated = [row for row in findings if row["polarity"] != "absent"]
    said = {row["finding"] for row in stated if row["polarity"] == "present"}
    return {
        name: not label.none_of & said if label.none_of else any(_holds(label, row, sentences) for row in stated)
        for name, label in labels.labels.items()
    }


def _holds(label: Label, row: Row, sentences: Sequence[Row]) -> bool:
    hedged = row["polarity"] == "uncertain"
    if row["finding"] not in label.findings or (hedged and not label.uncertain):
        return False
    sentence = sentences[row["sentence_index"]]
    if hedged and label.too_weak and label.too_weak.search(sentence["text"]):
        return False
    text, start, end = sentence["text"], row["start"] - sentence["start"], row["end"] - sentence["start"]
    looked_at = (
        (label.words, text[start:end]),
        (label.context, text[max(0, start - _CONTEXT) : end]),
        (label.sentence, text),
    )
    return all(pattern is None or pattern.search(words) for pattern, words in looked_at)
