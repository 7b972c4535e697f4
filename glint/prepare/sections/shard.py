"""Stage 05 on one shard: each report becomes sections, sentences and findings, or a reason why not."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

from glint.core.atomic import atomic_directory
from glint.core.config.sections import SectionsConfig
from glint.core.errors import Quarantine
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_bytes
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.headers import FINDING_SECTIONS, UNSECTIONED, find_sections
from glint.prepare.sections.language_model import Reader
from glint.prepare.sections.lexicon import lexicon_version, load_lexicon, load_words
from glint.prepare.sections.sentence_identity import finding_class, sentence_class
from glint.prepare.sections.sentences import sentence_spans

Row = dict[str, Any]
_MARKUP = re.compile(
    r"\s*(?:\{\\rtf|<!doctype|<\?xml|<html)|<(?:/?(?:html|body|div|p|table|tr|td|span|b|i|font)|br)\b[^<>]{0,200}/?>",
    re.I,
)
_MAX_TAGS = 2
_WORD = re.compile(r"[^\W\d_]{2,}")


def section_shard(
    manifest: Path, out: Path, config: SectionsConfig, *, workers: int = 1, read: Reader = read_findings
) -> None:
    """Read the reports of `manifest` (schema deidentify_reports) and make the folder of `out` whole.

    Writes sections.parquet, sentences.parquet, findings.parquet and, last, the manifest with one row per study.
    """
    reports = read_manifest(manifest, "deidentify_reports").sort("study_id")
    read_one = partial(read_report, config=config, read=read)
    results = parallel_map(read_one, list(reports.iter_rows(named=True)), workers=workers, description="sections")
    params = digest([config.model_dump(mode="json"), lexicon_version()])
    with atomic_directory(out.parent) as folder:
        for name, schema, kind in _TABLES:
            rows = [row for result in results for row in result[kind]]
            write_manifest(folder / name, manifest_frame(rows, schema), schema)
        studies = [{**result["study"], "params_digest": params} for result in results]
        write_manifest(folder / out.name, manifest_frame(studies, "sections"), "sections")
    quarantined = sum(study["status"] != "ok" for study in studies)
    unsectioned = sum(bool(study["unsectioned"]) for study in studies)
    log(f"sections: {len(studies)} reports, {quarantined} quarantined, {unsectioned} without headers")


_TABLES = (
    ("sections.parquet", "section_spans", "sections"),
    ("sentences.parquet", "sentences", "sentences"),
    ("findings.parquet", "findings", "findings"),
)


def read_report(report: Row, *, config: SectionsConfig, read: Reader = read_findings) -> dict[str, Any]:
    """Rows of all four tables for one report row of stage 02."""
    study: Row = {"study_id": report["study_id"], "status": "ok", "reason": None, "path": None, "unsectioned": None}
    text = report["text"] or ""
    study["input_digest"] = sha256_bytes(text.encode("utf-8", "surrogatepass"))
    sections: list[Row] = []
    sentences: list[Row] = []
    findings: list[Row] = []
    if report["status"] != "ok":
        study.update(status=report["status"], reason=report["reason"])
    else:
        try:
            check_readable(text, config)
            sections, sentences, findings = parse_report(report["study_id"], text, config, read)
            study.update(path="sentences.parquet", unsectioned=any(row["section"] == UNSECTIONED for row in sections))
        except Quarantine as refusal:
            study.update(status="quarantined", reason=refusal.reason)
    counts = {"num_sections": len(sections), "num_sentences": len(sentences), "num_findings": len(findings)}
    return {"study": {**study, **counts}, "sections": sections, "sentences": sentences, "findings": findings}


def parse_report(
    study_id: str, text: str, config: SectionsConfig, read: Reader = read_findings
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of the sections, sentences and findings tables; every span satisfies `text[start:end]`.

    Raises:
        Quarantine: `unparsed` where no sentence is found.
    """
    sections: list[Row] = []
    sentences: list[Row] = []
    findings: list[Row] = []
    for part in find_sections(text):
        span = {"start": part.start, "end": part.end, "text": text[part.start : part.end]}
        sections.append({"study_id": study_id, "section": part.section, "header": part.header, **span})
        states = part.section in FINDING_SECTIONS and (config.read_unsectioned or part.section != UNSECTIONED)
        for start, end in sentence_spans(text, part.start, part.end):
            place = {"study_id": study_id, "sentence_index": len(sentences)}
            said = text[start:end]
            span = {"start": start, "end": end, "text": said, "sentence_class": sentence_class(said)}
            sentences.append({**place, "section": part.section, **span})
            findings.extend({**place, **row} for row in (_finding_rows(said, start, read) if states else ()))
    if not sentences:
        raise Quarantine("unparsed", "no sentence was found in the report")
    return sections, sentences, findings


def _finding_rows(said: str, offset: int, read: Reader) -> list[Row]:
    return [
        {
            "finding": found.finding,
            "polarity": found.polarity,
            "laterality": found.laterality,
            "region": found.region,
            "size_mm": found.size_mm,
            "start": offset + found.start,
            "end": offset + found.end,
            "finding_class": finding_class(found.finding, found.polarity, found.laterality, found.region),
            "comparison": found.comparison,
        }
        for found in read(said)
    ]


def check_readable(text: str, config: SectionsConfig) -> None:
    """Refuse what is no English report.

    Raises:
        Quarantine: empty_report, too_long, not_text, markup, other_language.
    """
    times = Counter(text)
    letters = sum(n for c, n in times.items() if c.isalpha())
    visible = sum(n for c, n in times.items() if not c.isspace())
    if not visible or (letters < config.min_letters and not re.search(r"[\x00-\x08\x0e-\x1f\ufffd]", text)):
        raise Quarantine("empty_report", "the report has next to no letters")
    if len(text) > config.max_characters:
        raise Quarantine("too_long", f"{len(text)} characters")
    unprintable = sum(n for c, n in times.items() if not (c.isprintable() or c.isspace()) or c == "\ufffd")
    if unprintable > 0.02 * len(text) or letters < config.min_letter_share * visible:
        raise Quarantine("not_text", "control characters or too few letters")
    if _MARKUP.match(text) or len(_MARKUP.findall(text)) > _MAX_TAGS:
        raise Quarantine("markup", "HTML, XML or RTF; export reports as plain text")
    words = _WORD.findall(text.lower())
    known = sum(map(_known_words().__contains__, words))
    if known < config.min_english_share * len(words):
        raise Quarantine("other_language", "hardly an English word")


@cache
def _known_words() -> frozenset[str]:
    return load_words().english | frozenset(word for word in load_lexicon().typo_words if len(word) > 3)
