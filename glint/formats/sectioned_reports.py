"""Already sectioned report collections (CT-RATE columns, IU XML, MIMIC tables and texts) → one plain text per report.

The text carries headers that stage 05 knows, so that these reports take the same road as any hospital's.
"""

from __future__ import annotations

import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl

from glint.core.errors import InputError
from glint.formats.report_table import read_report_table

_CT_RATE = {
    "ClinicalInformation_EN": "CLINICAL INFORMATION",
    "Technique_EN": "TECHNIQUE",
    "Findings_EN": "FINDINGS",
    "Impressions_EN": "IMPRESSION",
}
_MIMIC = {"comparison": "COMPARISON", "findings": "FINDINGS", "impression": "IMPRESSION", "last_paragraph": ""}
_EMPTY = frozenset({"", "not given", "not given.", "nan", "none"})
Report = tuple[str, str]


def joined_report(parts: Mapping[str, str]) -> str:
    """Header → content as one text, empty parts ("Not given.") left out; a part without header stands alone."""
    given = [(header, " ".join(text.split(" ")).strip()) for header, text in parts.items()]
    kept = [(header, text) for header, text in given if text.lower() not in _EMPTY]
    return "\n\n".join(f"{header}:\n{text}" if header else text for header, text in kept)


def ct_rate_reports(path: Path) -> Iterator[Report]:
    """(volume name, text) of a CT-RATE report table; reconstructions that share a report keep the first volume's row.

    Two volumes of one study differ in the last number of the name only ("valid_1_a_1", "valid_1_a_2").
    """
    frame = read_report_table(path, ["VolumeName", *_CT_RATE])
    seen: set[str] = set()
    for row in frame.iter_rows(named=True):
        study = re.sub(r"(_[a-z]+)_\d+$", r"\1", row["VolumeName"].split(".", 1)[0])
        if study not in seen:
            seen.add(study)
            yield study, joined_report({header: row[column] for column, header in _CT_RATE.items()})


def iu_reports(path: Path) -> Iterator[Report]:
    """(report id, text) of the IU collection: its archive, or a folder of its XML files; DTDs are not resolved."""
    for name, data in xml_files(path):
        try:
            root = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            raise InputError(f"{path}: {Path(name).name} is not XML: {error}") from error
        parts = {str(e.get("Label")).upper(): e.text or "" for e in root.iter("AbstractText")}
        yield f"CXR{Path(name).stem}", joined_report(parts)


def mimic_section_reports(path: Path) -> Iterator[Report]:
    """(study, text) of mimic_cxr_sectioned.csv; `last_paragraph` stands without header, so it stays unsectioned."""
    for row in read_report_table(path, ["study", *_MIMIC]).iter_rows(named=True):
        yield row["study"], joined_report({header: row[column] for column, header in _MIMIC.items()})


def mimic_text_reports(path: Path) -> Iterator[Report]:
    """(study, text) of a folder of MIMIC report files `…/s50414267.txt`, as they are."""
    for file in sorted(path.rglob("*.txt")):
        yield file.stem, file.read_text(encoding="utf-8", errors="replace")


def xml_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every XML file of a folder or a tar archive."""
    if path.is_dir():
        yield from ((file.name, file.read_bytes()) for file in sorted(path.rglob("*.xml")))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.name.endswith(".xml") else None
            if handle is not None:
                yield member.name, handle.read()


LAYOUTS: dict[str, Callable[[Path], Iterator[Report]]] = {
    "ct_rate": ct_rate_reports,
    "iu_xml": iu_reports,
    "mimic_sections": mimic_section_reports,
    "mimic_text": mimic_text_reports,
}


def sectioned_report_table(path: Path, layout: str) -> pl.DataFrame:
    """Columns `id`, `text`, a row per report that holds any text.

    Raises:
        InputError: the source is absent, unreadable, of another layout or holds no report.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        rows = [(name, text) for name, text in LAYOUTS[layout](path) if text.strip()]
    except (tarfile.TarError, UnicodeError) as error:
        raise InputError(
            f"{path}: not readable as {layout}; name the archive, folder or table as downloaded"
        ) from error
    if not rows:
        raise InputError(f"{path}: no report of layout {layout} in it; layouts: {', '.join(LAYOUTS)}")
    return pl.DataFrame(rows, schema={"id": pl.String, "text": pl.String}, orient="row")
