"""A page to look at: reports with sections, sentences and findings coloured by polarity, and what the cohort states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import polars as pl

from glint.core.errors import InputError
from glint.formats.manifest import read_manifest
from glint.prepare.sections.headers import UNSECTIONED

POLARITIES = ("present", "uncertain", "absent")
SHOWN_PAIRS = 12
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Characters of one section; `polarity` is null where nothing is stated; `note` says what is."""

    text: str
    polarity: str | None = None
    note: str = ""
    starts_sentence: bool = False


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The four tables of stage 05, shards joined."""

    studies: pl.DataFrame
    sections: pl.DataFrame
    sentences: pl.DataFrame
    findings: pl.DataFrame


def read_tables(manifests: Sequence[Path]) -> Tables:
    """Read shards of stage 05 by their manifests."""
    named = (("sections", "section_spans"), ("sentences", "sentences"), ("findings", "findings"))
    tables = {
        name: pl.concat([read_manifest(path.parent / f"{name}.parquet", schema) for path in manifests])
        for name, schema in named
    }
    return Tables(studies=pl.concat([read_manifest(path, "sections") for path in manifests]), **tables)


def pieces(section: dict[str, object], sentences: pl.DataFrame, findings: pl.DataFrame) -> list[Piece]:
    """The section's text cut at sentence starts and finding spans; joined it is the text again."""
    text, offset = str(section["text"]), int(str(section["start"]))
    notes: list[list[tuple[str, str]]] = [[] for _ in text]
    for row in findings.iter_rows(named=True):
        place = " ".join(part for part in (row["laterality"], row["region"]) if part)
        size = f", {row['size_mm']:g} mm" if row["size_mm"] is not None else ""
        said = f"{row['finding'].replace('_', ' ')} {row['polarity']}{f', {place}' if place else ''}{size}"
        said += f" ({row['comparison']})" if row["comparison"] else ""
        for at in range(max(0, row["start"] - offset), min(len(text), row["end"] - offset)):
            notes[at].append((row["polarity"], said))
    starts = {row - offset for row in sentences["start"]}
    cuts = [i for i in range(len(text)) if i == 0 or i in starts or notes[i] != notes[i - 1]]
    return [
        Piece(
            text=text[a:b],
            polarity=min((p for p, _ in notes[a]), key=POLARITIES.index) if notes[a] else None,
            note="; ".join(dict.fromkeys(said for _, said in notes[a])),
            starts_sentence=a in starts,
        )
        for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)
    ]


def prevalence(tables: Tables) -> list[dict[str, object]]:
    """Per finding the reports that state it present, else uncertain, else absent, and the silent rest."""
    read = tables.studies.filter(pl.col("status") == "ok").height
    rank = {name: i for i, name in enumerate(POLARITIES)}
    best = (
        tables.findings.with_columns(rank=pl.col("polarity").replace_strict(rank, return_dtype=pl.Int64))
        .group_by("study_id", "finding")
        .agg(pl.col("rank").min())
    )
    counts = Counter(best.select("finding", "rank").iter_rows())
    names = sorted({name for name, _ in counts}, key=lambda name: (-counts[name, 0], name))
    rows = []
    for name in names:
        stated = [counts[name, i] for i in range(len(POLARITIES))]
        rows.append({"finding": name, **dict(zip(POLARITIES, stated, strict=True)), "silent": read - sum(stated)})
    return rows


def co_occurrence(tables: Tables, names: Sequence[str]) -> list[list[int]]:
    """Reports that state both findings as present; the diagonal counts the finding itself."""
    present = tables.findings.filter(pl.col("polarity") == "present")
    sets = {name: set(present.filter(pl.col("finding") == name)["study_id"]) for name in names}
    return [[len(sets[one] & sets[other]) for other in names] for one in names]


def render_page(tables: Tables, *, study_ids: Sequence[str] = (), max_reports: int = 20) -> str:
    """One self-contained HTML page; the first `max_reports` read reports, or those named.

    Raises:
        InputError: a named study is not in the tables.
    """
    known = set(tables.studies["study_id"])
    if absent := [study for study in study_ids if study not in known]:
        raise InputError(f"study {absent[0]} is not in these tables; name a study_id of the manifest")
    read = tables.studies.filter(pl.col("status") == "ok")["study_id"].sort().to_list()
    prevalent = prevalence(tables)
    shown = [str(row["finding"]) for row in prevalent if row["present"]][:SHOWN_PAIRS]
    aside = tables.studies.filter(pl.col("status") != "ok").sort("reason", "study_id")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report_view.html.jinja").render(
        total=tables.studies.height,
        num_read=len(read),
        prevalence=prevalent,
        pair_names=shown,
        pairs=co_occurrence(tables, shown),
        unsectioned=tables.studies.filter(pl.col("unsectioned").fill_null(False))["study_id"].sort().to_list(),
        aside=aside.select("study_id", "status", "reason").rows(named=True),
        reasons=Counter(aside["reason"]).most_common(),
        reports=[_report(tables, study) for study in (study_ids or read[:max_reports])],
        unsectioned_name=UNSECTIONED,
    )


def _report(tables: Tables, study_id: str) -> dict[str, object]:
    ours = pl.col("study_id") == study_id
    sections, sentences, findings = (t.filter(ours) for t in (tables.sections, tables.sentences, tables.findings))
    status = tables.studies.filter(ours).row(0, named=True)
    cut = []
    for section in sections.sort("start").iter_rows(named=True):
        inside = pl.col("start").is_between(section["start"], section["end"], closed="left")
        cut.append({**section, "pieces": pieces(section, sentences.filter(inside), findings.filter(inside))})
    return {"study_id": study_id, "status": status["status"], "reason": status["reason"], "sections": cut}
