"""PNG and JPEG films → DICOM files that stage 01 reads: study and patient from the path, views from a table.

What comes out still names patients and belongs below `restricted/`. EXIF, comments and profiles stay behind, since
only pixels are read. A picture that was wrapped before is not read again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from glint.core.atomic import write_json
from glint.core.errors import ConfigError, InputError, Quarantine
from glint.core.parallel import parallel_map
from glint.formats.image import PICTURE_SUFFIXES, read_picture
from glint.formats.picture_dicom import uid_of, write_picture
from glint.prepare.convert.film_values import grey_levels, named_view

BY_STEM = r"(?P<study>[^/]+)\.[^./]+$"
REFUSED = "refused.json"
REPORT_COLUMNS = ("accession_number", "patient_id", "report")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a public collection lays out its pictures: what the path says, and the columns of its table.

    `columns` names those for file, patient, view and text, where the table has them; file names may lack their ending there.
    """

    pattern: str
    columns: Mapping[str, str]


LAYOUTS = {
    # MIMIC-CXR-JPG: files/p10/p10000032/s50414267/<dicom id>.jpg beside mimic-cxr-2.0.0-metadata.csv; its
    # reports and other annotations call the study s50414267 too
    "mimic_cxr": Layout(
        pattern=r"p(?P<patient>\d{8})/(?P<study>s\d{8})/[^/]+$", columns={"file": "dicom_id", "view": "ViewPosition"}
    ),
    # Open-i: CXR1_1_IM-0001-3001.png beside ecgen-radiology/1.xml; the reports' table: glint report-table --layout iu_xml
    "openi": Layout(pattern=r"(?P<study>(?P<patient>CXR\d+))_[^/]+$", columns={}),
    # ieee8023/covid-chestxray-dataset and what was made from it: images/*.jpg beside metadata.csv with clinical notes
    "covid_chestxray": Layout(
        pattern=r"(?P<study>[^/]+)\.[^./]+$",
        columns={"file": "filename", "patient": "patientid", "view": "view", "text": "clinical_notes"},
    ),
}
DICOM_VIEWS = {"lateral": "LL", "unknown": ""}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture below a folder: `source` is its path there; a patient or view that is not known is empty."""

    source: str
    name: str
    patient: str
    study: str
    view: str


def path_pattern(text: str) -> re.Pattern[str]:
    """The expression that names a picture's study, and its patient, in its path.

    Raises:
        ConfigError: it is no expression or lacks the group `study`.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--pattern {text!r} is no regular expression: {error}") from None
    if "study" not in pattern.groupindex:
        raise ConfigError(f"--pattern {text!r} has no group (?P<study>…); (?P<patient>…) is optional")
    return pattern


def read_table(path: Path, columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """File name → what a CSV says of it; `columns` names those for `file`, and for `patient`, `view`, `text` where wanted.

    Raises:
        InputError: the table is absent, no CSV, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table")
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable CSV table") from error
    for column in columns.values():
        if column not in table.columns:
            raise InputError(f"{path}: no column {column!r}; it has {', '.join(table.columns[:12])}")
    rows = table.select(pl.col(column).fill_null("").alias(name) for name, column in columns.items()).to_dicts()
    return {Path(row["file"]).name: row for row in rows}


def list_pictures(
    folder: Path, pattern: re.Pattern[str], table: Mapping[str, Mapping[str, str]]
) -> tuple[list[Picture], dict[str, str]]:
    """Pictures below `folder` in order, and refused ones with their reason; `no_study_in_path` where `pattern` is silent.

    Raises:
        InputError: the folder is absent or holds no picture.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder with PNG or JPEG films")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder}: no file ending in {', '.join(PICTURE_SUFFIXES)}")
    found, refused = [], {}
    for path in files:
        source, stat = path.relative_to(folder).as_posix(), path.stat()
        match = pattern.search(source)
        if match is None:
            refused[source] = "no_study_in_path"
            continue
        said = table.get(path.name) or table.get(path.stem) or {}
        groups = match.groupdict()
        patient, view = said.get("patient", "") or groups.get("patient") or "", named_view(said.get("view", "").upper())
        found.append(
            Picture(
                source=source,
                name=f"{source}|{stat.st_size}|{stat.st_mtime_ns}|{patient}|{view}",
                patient=patient,
                study=groups["study"],
                view=DICOM_VIEWS.get(view, view),
            )
        )
    return found, refused


def report_rows(folder: Path, pattern: re.Pattern[str], table: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """A report per study that has text in the table: its accession number, its patient, and the different texts of its
    pictures one after another. Pictures that `pattern` does not name have none.
    """
    pictures, _ = list_pictures(folder, pattern, table)
    texts: dict[tuple[str, str], list[str]] = {}
    for picture in pictures:
        name = Path(picture.source)
        text = (table.get(name.name) or table.get(name.stem) or {}).get("text", "").strip()
        found = texts.setdefault((picture.study, picture.patient), [])
        if text and text not in found:
            found.append(text)
    return [
        dict(zip(REPORT_COLUMNS, (study, patient, "\n\n".join(told)), strict=True))
        for (study, patient), told in texts.items()
        if told
    ]


def _wrap(picture: Picture, *, folder: Path, out: Path, accept_color: bool, tolerance: float) -> str | None:
    target = out / _file_name(picture)
    if target.is_file():
        return None
    try:
        pixels = read_picture(folder / picture.source)
        grey = grey_levels(pixels, accept_color=accept_color, tolerance=tolerance)
    except Quarantine as refusal:
        return refusal.reason
    grey = np.rint(grey).astype(pixels.dtype)
    write_picture(target, grey, patient=picture.patient, study=picture.study, name=picture.name, view=picture.view)
    return None


def _file_name(picture: Picture) -> str:
    return f"{uid_of('instance', picture.name)}.dcm"


def wrap_pictures(
    folder: Path,
    out: Path,
    *,
    pattern: re.Pattern[str],
    table: Mapping[str, Mapping[str, str]],
    accept_color: bool = False,
    color_tolerance: float = 0.06,
    workers: int = 1,
) -> tuple[Sequence[Picture], dict[str, str]]:
    """Write a DICOM file into `out` for every picture below `folder`; those of pictures that are gone are removed.

    Returns the pictures that were listed and, of all files, the refused ones with their reason (also in `refused.json`).
    """
    pictures, refused = list_pictures(folder, pattern, table)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = {_file_name(picture) for picture in pictures}
    for old in out.glob("*.dcm"):
        if old.name not in wanted:
            old.unlink()
    wrap = partial(_wrap, folder=folder, out=out, accept_color=accept_color, tolerance=color_tolerance)
    reasons = parallel_map(wrap, pictures, workers=workers, description="pictures")
    refused |= {picture.source: reason for picture, reason in zip(pictures, reasons, strict=True) if reason}
    write_json(out / REFUSED, refused)
    return pictures, refused
