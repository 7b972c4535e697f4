"""Findings by a language model behind the interface of `read_findings`; what it says is checked, else the rules read.

The model is any function from a prompt to its completion. An answer counts only if it is JSON of the schema below, names
findings and places of the lexicon, and quotes characters that stand in the sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from glint.core.atomic import write_json
from glint.core.provenance import digest
from glint.prepare.sections.findings import Finding, read_findings
from glint.prepare.sections.lexicon import lexicon_version, load_lexicon

Generate = Callable[[str], str]
Reader = Callable[[str], tuple[Finding, ...]]
PROMPT_VERSION = "1"
_MAX_SENTENCE = 2000
_JSON = re.compile(r"\{.*\}", re.DOTALL)


class Statement(BaseModel):
    """One statement as the model has to give it; `quote` is copied from the sentence."""

    model_config = ConfigDict(extra="forbid", strict=True)

    finding: str
    polarity: Literal["present", "absent", "uncertain"]
    laterality: Literal["left", "right", "bilateral"] | None = None
    region: str | None = None
    size_mm: float | None = None
    quote: str


class Answer(BaseModel):
    """What the model has to answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    findings: list[Statement]


def model_reader(generate: Generate, *, name: str, cache: Path | None, retries: int) -> Reader:
    """A reader that asks the model `1 + retries` times at most and falls back to the rules.

    `name` tells models apart in `cache`, a folder of one JSON file per sentence, named by a hash of content.
    """

    def read(sentence: str) -> tuple[Finding, ...]:
        if not sentence.strip() or len(sentence) > _MAX_SENTENCE:
            return read_findings(sentence)
        key = digest([PROMPT_VERSION, lexicon_version(), name, retries, sentence])
        file = cache / f"{key}.json" if cache else None
        if file and file.is_file():
            stored = json.loads(file.read_text("utf-8"))
            return tuple(Finding(**row) for row in stored["findings"])
        found, by = _ask(generate, sentence, retries)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"by": by, "findings": [asdict(row) for row in found]})
        return found

    return read


def _ask(generate: Generate, sentence: str, retries: int) -> tuple[tuple[Finding, ...], str]:
    complaint = ""
    for _ in range(1 + retries):
        # Decoding is deterministic, so a second try must ask another question: it carries what was wrong.
        try:
            return verified(generate(prompt_for(sentence, complaint)), sentence), "model"
        except ValueError as error:
            complaint = str(error)
    return read_findings(sentence), "rules"


def prompt_for(sentence: str, complaint: str = "") -> str:
    """The question, with the lexicon's names, and what was wrong with the last answer."""
    lexicon = load_lexicon()
    again = f"\nYour last answer was refused: {complaint}" if complaint else ""
    return (
        "List every finding that this sentence of a chest radiology report states. Answer with JSON only: "
        '{"findings": [{"finding": …, "polarity": "present" | "absent" | "uncertain", "laterality": "left" | "right" '
        '| "bilateral" | null, "region": … | null, "size_mm": number | null, "quote": words copied from the sentence}]}.\n'
        f"finding is one of: {', '.join(lexicon.findings)}.\nregion is one of: {', '.join(lexicon.regions)}.\n"
        "History, advice and comparison with earlier studies state nothing."
        f"{again}\nSentence: {json.dumps(sentence, ensure_ascii=False)}\nJSON:"
    )


def verified(answer: str, sentence: str) -> tuple[Finding, ...]:
    """The answer's statements with spans, which name characters of the sentence.

    Raises:
        ValueError: no JSON, another schema, an unknown finding or region, or a quote that is not in the sentence.
    """
    body = _JSON.search(answer)
    if body is None:
        raise ValueError("no JSON object")
    try:
        statements = Answer.model_validate_json(body.group()).findings
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    return tuple(sorted((_placed(one, sentence) for one in statements), key=lambda row: (row.start, row.finding)))


def _placed(one: Statement, sentence: str) -> Finding:
    lexicon = load_lexicon()
    if one.finding not in lexicon.findings:
        raise ValueError("finding is not in the list")
    if one.region is not None and one.region not in lexicon.regions:
        raise ValueError("region is not in the list")
    start = sentence.find(one.quote)
    if not one.quote.strip() or start < 0:
        raise ValueError("quote is not in the sentence")
    return Finding(one.finding, one.polarity, one.laterality, one.region, one.size_mm, start, start + len(one.quote))
