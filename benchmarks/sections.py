"""How well stage 05 reads real reports: labels, sections, speed.

Usage: GLINT_REAL_DATA=<folder of real reports> python benchmarks/sections.py [--half tune|held_out] [--wrong FINDING]
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glint.core.config.sections import SectionsConfig
from glint.core.errors import Quarantine
from glint.prepare.sections.headers import find_sections
from glint.prepare.sections.shard import check_readable, parse_report

CT_CLIP_LABELS = {
    "Medical material": "medical_material",
    "Arterial wall calcification": "arterial_wall_calcification",
    "Cardiomegaly": "cardiomegaly",
    "Pericardial effusion": "pericardial_effusion",
    "Coronary artery wall calcification": "coronary_artery_calcification",
    "Hiatal hernia": "hiatal_hernia",
    "Lymphadenopathy": "lymphadenopathy",
    "Emphysema": "emphysema",
    "Atelectasis": "atelectasis",
    "Lung nodule": "nodule",
    "Lung opacity": "lung_opacity",
    "Pulmonary fibrotic sequela": "fibrotic_sequela",
    "Pleural effusion": "pleural_effusion",
    "Mosaic attenuation pattern": "mosaic_attenuation",
    "Peribronchial thickening": "peribronchial_thickening",
    "Consolidation": "consolidation",
    "Bronchiectasis": "bronchiectasis",
    "Interlobular septal thickening": "interlobular_septal_thickening",
}
IU_LABELS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "pleural_effusion",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Edema": "pulmonary_edema",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrotic_sequela",
    "Pleural_Thickening": "pleural_thickening",
    "Hernia": "hiatal_hernia",
}
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


def stated_present(text: str) -> set[str]:
    """Findings that the report states as present; a consolidation or ground-glass opacity is a lung opacity too."""
    _, _, findings = parse_report("s", text, _CONFIG)
    return {row["finding"] for row in findings if row["polarity"] == "present"}


def ct_clip(folder: Path) -> list[tuple[str, dict[str, bool]]]:
    with (folder / "5_report_text/ct_clip_labelled/reports_18labels.csv").open(encoding="utf-8") as handle:
        return [
            (row["report_text"], {ours: row[label] == "1" for label, ours in CT_CLIP_LABELS.items()})
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
    with (folder / "5_report_text/iu_xray/openi_gld_std14.csv").open(encoding="utf-8") as handle:
        return {
            row["filename"]: {ours: row[label] == "1" for label, ours in IU_LABELS.items()}
            for row in csv.DictReader(handle)
        }


def rejoined(parts: dict[str, str], style: str) -> str:
    """A plain report from named parts, in one of three header styles."""
    given = [(name, text.strip()) for name, text in parts.items() if text.strip()]
    if style == "upper":
        return "\n\n".join(f"{name.upper()}:\n{text}" for name, text in given)
    if style == "sole":
        return "\n".join(f"{name.title()}\n{text}\n" for name, text in given)
    return "\n".join(f"{name.title()}: {text}" for name, text in given)


CT_RATE_PARTS = {
    "clinical information": "ClinicalInformation_EN",
    "technique": "Technique_EN",
    "findings": "Findings_EN",
    "impression": "Impressions_EN",
}


def sections_recovered(reports: list[dict[str, str]], wanted: tuple[str, ...] = ("findings", "impression")) -> float:
    """Share of reports whose findings and impression come back exactly, over three header styles in turn."""
    right = 0
    for number, parts in enumerate(reports):
        text = rejoined(parts, ("upper", "sole", "inline")[number % 3])
        got: dict[str, list[str]] = {}
        for section in find_sections(text):
            got.setdefault(section.section, []).append(text[section.start : section.end])
        right += all(
            got.get(name, []) == ([parts[name].strip()] if parts.get(name, "").strip() else []) for name in wanted
        )
    return right / max(1, len(reports))


def scores(reports: list[tuple[str, dict[str, bool]]]) -> dict[str, tuple[float, float, float, int]]:
    """finding → (precision, recall, F1, positives)."""
    names = list(reports[0][1])
    counts = {name: [0, 0, 0] for name in names}
    for text, labels in reports:
        stated = stated_present(text)
        if stated & {"consolidation", "ground_glass_opacity"}:
            stated.add("lung_opacity")
        for name in names:
            said, true = name in stated, labels[name]
            counts[name][0] += said and true
            counts[name][1] += said and not true
            counts[name][2] += true and not said
    table = {}
    for name, (hit, extra, missed) in counts.items():
        precision, recall = hit / max(1, hit + extra), hit / max(1, hit + missed)
        table[name] = (precision, recall, 2 * hit / max(1, 2 * hit + extra + missed), hit + missed)
    return table


def macro_f1(table: dict[str, tuple[float, float, float, int]]) -> float:
    return sum(row[2] for row in table.values()) / len(table)


def show(title: str, table: dict[str, tuple[float, float, float, int]]) -> None:
    print(f"\n{title}: macro F1 {macro_f1(table):.3f}")
    for name, (precision, recall, f1, count) in sorted(table.items(), key=lambda item: item[1][2]):
        print(f"  {name:34s} P {precision:.3f}  R {recall:.3f}  F1 {f1:.3f}  n {count}")


def show_wrong(reports: list[tuple[str, dict[str, bool]]], name: str) -> None:
    """Sentences behind each wrong label, for reading."""
    for text, labels in reports:
        _, sentences, findings = parse_report("s", text, _CONFIG)
        rows: list[dict[str, Any]] = [row for row in findings if row["finding"] == name]
        said = any(row["polarity"] == "present" for row in rows)
        if said != labels[name]:
            print(
                "EXTRA " if said else "MISSED",
                [(r["polarity"], sentences[r["sentence_index"]]["text"][:300]) for r in rows],
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=("tune", "held_out"), default="held_out")
    parser.add_argument("--wrong", help="print the disagreements of one finding on the tuning half")
    parser.add_argument("--set", choices=("ct_clip", "iu"), default="ct_clip")
    args = parser.parse_args()
    folder = Path(os.environ["GLINT_REAL_DATA"])
    labelled = ct_clip(folder)
    truth = iu_labels(folder)
    joined = ((name, rejoined(parts, "inline")) for name, parts in iu_reports(folder))
    iu = [(text, truth[name]) for name, text in joined if name in truth and readable(text)]
    if args.wrong:
        show_wrong([r for i, r in enumerate(iu if args.set == "iu" else labelled) if half_of(i) == "tune"], args.wrong)
        return
    show(f"CT-CLIP labels ({args.half})", scores([r for i, r in enumerate(labelled) if half_of(i) == args.half]))
    show(f"IU labels ({args.half})", scores([r for i, r in enumerate(iu) if half_of(i) == args.half]))
    blank = re.compile(r"^Not given\.?$")
    rows = [{n: blank.sub("", row[c].strip()) for n, c in CT_RATE_PARTS.items()} for row in ct_rate(folder)]
    print(f"\nCT-RATE findings and impression recovered: {sections_recovered(rows):.4f} of {len(rows)}")
    plain = [{k.lower(): v for k, v in parts.items()} for _, parts in iu_reports(folder)]
    print(f"IU findings and impression recovered: {sections_recovered(plain):.4f} of {len(plain)}")
    texts = [text for text, _ in labelled + iu]
    random.Random(0).shuffle(texts)
    started_s = time.perf_counter()
    for text in texts[:1000]:
        parse_report("s", text, _CONFIG)
    print(f"1,000 mixed reports in {time.perf_counter() - started_s:.2f} s on one core (sentence cache warm)")


if __name__ == "__main__":
    main()
