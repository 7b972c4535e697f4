"""How well stage 05 reads real reports: labels, sections, speed.

Usage: GLINT_REAL_DATA=<folder of real reports> python benchmarks/sections.py [--half tune|held_out] [--wrong LABEL]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import re
import resource
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from glint.core.config.sections import SectionsConfig
from glint.core.errors import Quarantine
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.headers import UNSECTIONED, find_sections
from glint.prepare.sections.label_sets import load_label_sets, report_labels
from glint.prepare.sections.sentences import sentence_spans
from glint.prepare.sections.shard import check_readable, parse_report

_CONFIG = SectionsConfig()


def half_of(number: int) -> str:
    """Even rows tune, odd rows are held out."""
    return "held_out" if number % 2 else "tune"


def readable(text: str) -> bool:
    """False for the reports that stage 05 quarantines, such as empty ones."""
    try:
        check_readable(text, _CONFIG)
        parse_report("s", text, _CONFIG)
    except Quarantine:
        return False
    return True


def stated(text: str, label_set: str) -> dict[str, bool]:
    """Labels of the set that the report states."""
    _, sentences, findings = parse_report("s", text, _CONFIG)
    return report_labels(sentences, findings, load_label_sets()[label_set])


def ct_clip(folder: Path) -> list[tuple[str, dict[str, bool]]]:
    with (folder / "5_report_text/ct_clip_labelled/reports_18labels.csv").open(encoding="utf-8") as handle:
        return [
            (row["report_text"], {label: row[label] == "1" for label in load_label_sets()["ct_rate"].labels})
            for row in csv.DictReader(handle)
        ]


def ct_rate(folder: Path) -> list[dict[str, str]]:
    with (folder / "5_report_text/ct_rate_sections/validation_reports.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def iu_reports(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(report name, its XML sections by label)."""
    with tarfile.open(folder / "5_report_text/iu_xray/ecgen-radiology.tgz") as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.name.endswith(".xml") else None
            if handle is None:
                continue
            root = ElementTree.parse(handle).getroot()
            parts = {str(e.get("Label")): (e.text or "").strip() for e in root.iter("AbstractText")}
            yield f"CXR{Path(member.name).stem}", parts


def iu_labels(folder: Path) -> dict[str, dict[str, bool]]:
    """The public labels made from MeSH; Hernia, which that table leaves empty, from the XML's own MeSH terms."""
    hernia = set()
    with tarfile.open(folder / "5_report_text/iu_xray/ecgen-radiology.tgz") as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.name.endswith(".xml") else None
            terms = ElementTree.parse(handle).getroot().iter("major") if handle else ()
            if any(re.match("hernia, (?:hiatal|diaphragmatic)", (e.text or "").lower()) for e in terms):
                hernia.add(f"CXR{Path(member.name).stem}")
    with (folder / "5_report_text/iu_xray/openi_gld_std14.csv").open(encoding="utf-8") as handle:
        return {
            row["filename"]: {
                label: row["filename"] in hernia if label == "Hernia" else row[label] == "1"
                for label in load_label_sets()["iu_mesh"].labels
            }
            for row in csv.DictReader(handle)
        }


def iu_labelled(folder: Path) -> list[tuple[str, dict[str, bool]]]:
    """(plain report, its labels) of the readable IU reports that have labels."""
    truth = iu_labels(folder)
    rows = [(rejoined(parts, 2), truth[name]) for name, parts in iu_reports(folder) if name in truth]
    return [row for row in rows if readable(row[0])]


def half(rows: list[tuple[str, dict[str, bool]]], name: str) -> list[tuple[str, dict[str, bool]]]:
    """The rows of one half, by their number in the archive's order."""
    return [row for number, row in enumerate(rows) if half_of(number) == name]


JUDGED = Path(__file__).parents[1] / "tests" / "prepare" / "sections" / "data" / "real_sentences.csv"


def judged_sentences(folder: Path) -> list[tuple[str, str, str, str]]:
    """(sentence, finding, polarity that a reader gave it, sample) of the judged sentences, found by their digest.

    The texts stay where they are; the repository holds 16 hex digits of each one's SHA-256.
    """
    texts = [text for text, _ in ct_clip(folder)] + [rejoined(parts, 2) for _, parts in iu_reports(folder)]
    said = {text[a:b] for text in texts for a, b in sentence_spans(text)}
    by_digest = {hashlib.sha256(sentence.encode()).hexdigest()[:16]: sentence for sentence in said}
    with JUDGED.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return [(by_digest[row["sentence_sha256_16"]], row["finding"], row["polarity"], row["sample"]) for row in rows]


def polarity_of(sentence: str, finding: str) -> str:
    """What is read of one finding: a polarity, several joined by +, or `silent`."""
    return "+".join(sorted({row.polarity for row in read_findings(sentence) if row.finding == finding})) or "silent"


def polarity_lines(folder: Path) -> list[str]:
    """Real sentences judged by a reader, right and wrong by sample and polarity."""
    judged = judged_sentences(folder)
    lines = [
        "",
        "## Polarity of real sentences",
        "",
        "Sentences with a word of denial or doubt, drawn at random from IU and CT-CLIP reports, and one finding of each, judged by one",
        "non-radiologist reader before the reading was seen. `read`: their mistakes were looked at and wordings added to the grammar for them;",
        "`fresh`: drawn afterwards, no rule was taken from it. The written suite beside it is in the tests.",
        "",
        "| sample | absent | present | uncertain | silent | right |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for sample in ("read", "fresh"):
        rows = [(want, polarity_of(said, finding)) for said, finding, want, of in judged if of == sample]
        cells = []
        for polarity in ("absent", "present", "uncertain", "silent"):
            got = [read == want for want, read in rows if want == polarity]
            cells.append(f"{sum(got)} of {len(got)}")
        right = sum(want == read for want, read in rows)
        lines.append(f"| {sample} | {' | '.join(cells)} | {right} of {len(rows)}, {right / len(rows):.1%} |")
    return lines


WORDINGS = {
    "findings": ("Findings", "FINDING", "Report", "Observations", "Radiographic findings", "Fidnings", "CT findings"),
    "impression": ("Impression", "CONCLUSION", "Opinion", "Summary", "IMPRESION", "Assessment", "Final impression"),
}


def rejoined(parts: dict[str, str], style: int) -> str:
    """A plain report from named parts; styles 0 to 4 differ in layout, the wording turns with the style as well."""
    given = [(name, text.strip()) for name, text in parts.items() if text.strip()]
    pieces = []
    for number, (name, text) in enumerate(given, 1):
        wordings = WORDINGS.get(name.lower(), (name,))
        header = wordings[style // len(LAYOUTS) % len(wordings)]
        pieces.append(
            LAYOUTS[style % len(LAYOUTS)].format(upper=header.upper(), title=header.title(), number=number, text=text)
        )
    return "\n".join(pieces)


LAYOUTS = (
    "{upper}:\n{text}\n",
    "{title}\n{text}\n",
    "{title}: {text}",
    "{number}. {upper}:\n{text}\n",
    "**{title}:** {text}\n",
)
CT_RATE_PARTS = {
    "clinical information": "ClinicalInformation_EN",
    "technique": "Technique_EN",
    "findings": "Findings_EN",
    "impression": "Impressions_EN",
}


def sections_recovered(reports: list[dict[str, str]], wanted: tuple[str, ...] = ("findings", "impression")) -> float:
    """Share of reports whose findings and impression come back exactly, over layouts and wordings in turn."""
    right = 0
    for number, parts in enumerate(reports):
        text = rejoined(parts, number)
        got: dict[str, list[str]] = {}
        for section in find_sections(text):
            got.setdefault(section.section, []).append(text[section.start : section.end])
        right += all(
            got.get(name, []) == ([parts[name].strip()] if parts.get(name, "").strip() else []) for name in wanted
        )
    return right / max(1, len(reports))


def offset_errors(texts: list[str]) -> tuple[int, int]:
    """(spans that do not give back their text or lie outside their sentence, spans checked)."""
    wrong = checked = 0
    for text in texts:
        sections, sentences, findings = parse_report("s", text, _CONFIG)
        for row in sections + sentences:
            wrong += text[row["start"] : row["end"]] != row["text"]
        for row in findings:
            around = sentences[row["sentence_index"]]
            wrong += not around["start"] <= row["start"] < row["end"] <= around["end"]
        checked += len(sections) + len(sentences) + len(findings)
    return wrong, checked


def called_findings_without_header(reports: list[dict[str, str]]) -> int:
    """Reports put together without any header of which some text was called findings or impression all the same."""
    bare = [" ".join(parts[name].split()) for parts in reports for name in ("findings",) if parts.get(name, "").strip()]
    return sum(any(s.section != UNSECTIONED for s in find_sections(text)) for text in bare)


Scores = dict[str, tuple[float, float, float, int]]


def scores(reports: list[tuple[str, dict[str, bool]]], label_set: str = "ct_rate") -> Scores:
    """label → (precision, recall, F1, positives)."""
    counts = {name: [0, 0, 0] for name in reports[0][1]}
    for text, labels in reports:
        read = stated(text, label_set)
        for name, true in labels.items():
            counts[name][0] += read[name] and true
            counts[name][1] += read[name] and not true
            counts[name][2] += true and not read[name]
    table = {}
    for name, (hit, extra, missed) in counts.items():
        precision, recall = hit / max(1, hit + extra), hit / max(1, hit + missed)
        table[name] = (precision, recall, 2 * hit / max(1, 2 * hit + extra + missed), hit + missed)
    return table


def macro_f1(table: Scores, least: int = 0) -> float:
    """Mean F1 of the labels with at least `least` positives."""
    kept = [row[2] for row in table.values() if row[3] >= least]
    return sum(kept) / len(kept)


def disagreements(reports: list[tuple[str, dict[str, bool]]], label_set: str) -> Counter[str]:
    """Why reading and label differ, counted: what the report's words say of a label that is wrong."""
    kinds: Counter[str] = Counter()
    for text, labels in reports:
        _, sentences, findings = parse_report("s", text, _CONFIG)
        read = report_labels(sentences, findings, load_label_sets()[label_set])
        for name, true in labels.items():
            if read[name] == true:
                continue
            named = load_label_sets()[label_set].labels[name].findings
            said = {row["polarity"] for row in findings if row["finding"] in named}
            if true:
                kind = "hedged" if "uncertain" in said else "said in other words" if "present" in said else ""
                kinds["label set, not report: " + (kind or ("denied" if said else "never named"))] += 1
            else:
                kinds["report, not label set: " + ("stated plainly" if "present" in said else "hedged only")] += 1
    return kinds


def score_lines(title: str, table: Scores) -> list[str]:
    lines = [
        "",
        f"## {title}",
        "",
        f"Macro F1 {macro_f1(table):.3f}; of labels with 20 positives or more {macro_f1(table, 20):.3f}.",
        "",
    ]
    lines += ["| label | precision | recall | F1 | positives |", "|---|--:|--:|--:|--:|"]
    for name, (precision, recall, f1, count) in sorted(table.items(), key=lambda item: item[1][2]):
        lines.append(f"| {name} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {count} |")
    return lines


def _parse_cold(texts: list[str]) -> float:
    read_findings.cache_clear()
    started_s = time.process_time()
    for text in texts:
        parse_report("s", text, _CONFIG)
    return time.process_time() - started_s


def speed_lines(texts: list[str], streamed: int) -> list[str]:
    """Reports per second of CPU on each of two processes with empty caches, and memory along a long stream."""
    started_s = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        busy_s = list(pool.map(_parse_cold, [texts[::2], texts[1::2]]))
    wall_s = time.perf_counter() - started_s
    lines = [
        "",
        "## Speed",
        "",
        f"{len(texts)} distinct real reports, empty sentence cache, two processes: "
        f"{len(texts) / max(busy_s):.0f} reports/s by CPU time, {len(texts) / wall_s:.0f} by the clock of a shared machine.",
    ]
    marks = []
    for number in range(streamed):
        # A number in the text keeps sentences from repeating exactly, so that the cache is under pressure.
        parse_report("s", f"{texts[number % len(texts)]} Follow-up series {number}.", _CONFIG)
        if (number + 1) % max(1, streamed // 5) == 0:
            marks.append(f"{number + 1:,}: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return [*lines, "", f"Peak memory after so many streamed reports: {'; '.join(marks)}."] if marks else lines


def show_wrong(reports: list[tuple[str, dict[str, bool]]], name: str, label_set: str) -> None:
    """Sentences behind each wrong label, for reading; they stay on the screen."""
    for text, labels in reports:
        if stated(text, label_set)[name] != labels[name]:
            named = load_label_sets()[label_set].labels[name].findings
            _, sentences, findings = parse_report("s", text, _CONFIG)
            rows: list[dict[str, Any]] = [row for row in findings if row["finding"] in named]
            said = [(r["polarity"], sentences[r["sentence_index"]]["text"][:300]) for r in rows]
            print("MISSED" if labels[name] else "EXTRA ", said or text[-600:].replace("\n", " | "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=("tune", "held_out"), default="held_out")
    parser.add_argument("--wrong", help="print the disagreements of one label on that half, write nothing")
    parser.add_argument("--set", choices=("ct_rate", "iu_mesh"), default="ct_rate")
    parser.add_argument("--stream", type=int, default=20_000, help="reports to stream for the memory line")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sections.md")
    args = parser.parse_args()
    folder = Path(os.environ["GLINT_REAL_DATA"])
    sets = {"ct_rate": ct_clip(folder), "iu_mesh": iu_labelled(folder)}
    halves = {name: half(rows, args.half) for name, rows in sets.items()}
    if args.wrong:
        show_wrong(halves[args.set], args.wrong, args.set)
        return
    blank = re.compile(r"^Not given\.?$")
    plain = {
        "CT-RATE": [{n: blank.sub("", row[c].strip()) for n, c in CT_RATE_PARTS.items()} for row in ct_rate(folder)],
        "IU films": [{k.lower(): v for k, v in parts.items()} for _, parts in iu_reports(folder)],
    }
    lines = [
        "# Stage 05 on real reports",
        "",
        "`python benchmarks/sections.py`; reports by id in the order of their archive, every second one held out,",
        f"the others were read for tuning. This table: {args.half}.",
        "",
        "## Sections",
        "",
        f"Re-joined into plain text in {len(LAYOUTS)} layouts and {len(WORDINGS['findings'])} wordings of each header, slips of the keyboard among them.",
        "",
        "| reports | findings and impression recovered exactly | n | without headers, yet called findings |",
        "|---|--:|--:|--:|",
    ]
    for name, rows in plain.items():
        lines.append(
            f"| {name} | {sections_recovered(rows):.4f} | {len(rows)} | {called_findings_without_header(rows)} |"
        )
    texts = [text for rows in sets.values() for text, _ in rows]
    wrong, checked = offset_errors(texts)
    lines += ["", f"Offset errors: {wrong} of {checked:,} spans."]
    lines += score_lines("18 labels of CT-CLIP", scores(halves["ct_rate"], "ct_rate"))
    lines += score_lines("14 labels of the IU films, made from MeSH", scores(halves["iu_mesh"], "iu_mesh"))
    lines += ["", "Disagreements on the IU films, by what the report's words say:", ""]
    lines += [f"- {kind}: {count}" for kind, count in sorted(disagreements(halves["iu_mesh"], "iu_mesh").items())]
    tuned = macro_f1(scores(half(sets["iu_mesh"], "tune"), "iu_mesh"))
    reading = (Path(__file__).parent / "sections_reading.md").read_text("utf-8").strip()
    lines += ["", reading.replace("TUNED", f"{tuned:.3f}")]
    lines += polarity_lines(folder)
    random.Random(0).shuffle(texts)
    lines += speed_lines(texts, args.stream)
    page = "\n".join(lines) + "\n"
    print(page)
    args.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
