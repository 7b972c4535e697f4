"""Annotation files of chest films with labels: OpenI, PadChest, CheXpert, MIMIC-CXR, NIH ChestX-ray14 (and its boxes)."""

import ast
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.errors import InputError
from glint.evaluation.annotations.film_regions import NIH_SIZE_YX
from glint.evaluation.annotations.raster import sized_box
from glint.evaluation.annotations.table import (
    annotation_frame,
    complete,
    find_file,
    numbers,
    read_csv,
    required_file,
    wide_labels,
)
from glint.formats.sectioned_reports import xml_files

OPENI_TERMS: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("atelectasis", "atelectases"),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("effusion",),
    "Infiltration": ("infiltration", "infiltrate"),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Edema": ("edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("fibrosis",),
    "Pleural_Thickening": ("pleural_thickening", "pleural thickening"),
    "Hernia": ("hernia",),
    "Fracture": ("fracture",),
    "Opacity": ("opacity",),
    "Lesion": ("lesion",),
    "Calcified Granuloma": ("calcified granuloma",),
    "Granuloma": ("granuloma",),
}
"""Label → any of these within an automatic MeSH term. Source: CARZero's evaluation; so a calcified granuloma is a granuloma too."""

CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def openi_labels(terms: str) -> list[str]:
    """The labels that automatic terms, lower case and joined, name."""
    return [label for label, words in OPENI_TERMS.items() if any(word in terms for word in words)]


def _openi_rows(image: str, study: str, terms: str) -> Iterator[dict[str, Any]]:
    shared = {"image": image, "study": study, "patient": study, "split": "test"}
    labels = openi_labels(terms)
    if not labels:
        yield shared
    yield from ({**shared, "finding": label, "label": "present"} for label in labels)


def read_openi(folder: Path) -> pl.DataFrame:
    """OpenI: a CSV with `labels_automatic` (as CARZero's `custom.csv`), else the reports' XML files or their archive.

    A row of images is a film of a report; the report's automatic MeSH terms are the film's labels.

    Raises:
        InputError: no source, no such column, a file that is no XML.
    """
    table = find_file(folder, "custom.csv", optional=True)
    rows: list[dict[str, Any]] = []
    if table is not None:
        frame = read_csv(table, ["labels_automatic"])
        column = next((name for name in ("file_name", "imageid") if name in frame.columns), None)
        if column is None:
            raise InputError(f"{table}: no column 'file_name' or 'imageid'; it has {', '.join(frame.columns[:8])}")
        for image, terms in frame.select(column, "labels_automatic").iter_rows():
            stem = Path(str(image)).stem
            rows += _openi_rows(stem, stem.split("_", 1)[0], (terms or "").lower())
        return annotation_frame(rows)
    source = find_file(folder, "ecgen-radiology.tgz", "NLMCXR_reports.tgz", optional=True) or folder
    try:
        for name, data in xml_files(source):
            try:
                root = ElementTree.fromstring(data)
            except ElementTree.ParseError as error:
                raise InputError(f"{source}: {Path(name).name} is not XML: {error}") from error
            number = root.find("uId")
            study = str(number.attrib.get("id")) if number is not None else f"CXR{Path(name).stem}"
            terms = "|".join((node.text or "").lower() for node in root.findall(".//MeSH/automatic"))
            for image in root.iter("parentImage"):
                rows += _openi_rows(str(image.attrib.get("id")), study, terms)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{source}: not a readable archive; put the published file there again") from error
    if not rows:
        raise InputError(f"{folder}: no XML report with a parentImage, no custom.csv; put ecgen-radiology.tgz there")
    return annotation_frame(rows)


def read_padchest(folder: Path) -> pl.DataFrame:
    """PadChest: labels as lists in text. What physicians labelled (`MethodLabel`) is split `test`, the rest `train`.

    Raises:
        InputError: no file or column, a value of Labels that is no list.
    """
    file = required_file(
        folder, "PADCHEST_chest_x_ray_images_labels_*.csv", "PADCHEST_chest_x_ray_images_labels_*.csv.gz"
    )
    frame = read_csv(file, ["ImageID", "StudyID", "PatientID", "MethodLabel", "Labels"])
    rows = []
    for place, row in enumerate(frame.iter_rows(named=True)):
        shared = {
            "image": Path(row["ImageID"] or "").stem,
            "study": row["StudyID"],
            "patient": row["PatientID"],
            "split": "test" if row["MethodLabel"] == "Physician" else "train",
        }
        if row["Labels"] in (None, "nan"):
            rows.append({**shared, "label": "unknown"})
            continue
        try:
            listed = ast.literal_eval(row["Labels"])
        except (ValueError, SyntaxError) as error:
            raise InputError(f"{file}: column 'Labels', row {place + 2}: not a list of labels") from error
        names = sorted({str(one).strip().lower() for one in listed} - {"", "normal"})
        rows += [{**shared, "finding": name, "label": "present"} for name in names] or [shared]
    return annotation_frame(rows)


def read_chexpert(folder: Path) -> pl.DataFrame:
    """CheXpert: 14 columns of 1, 0, -1 (uncertain) or empty (not mentioned); the image is patient/study/view.

    `test_labels.csv` or `test.csv` is split test, `valid.csv` validation, `train.csv` train; a file that is not there is left out.

    Raises:
        InputError: no file, another column or value.
    """
    names = {"test": ("test_labels.csv", "test.csv"), "validation": ("valid.csv",), "train": ("train.csv",)}
    files = {split: find_file(folder, *patterns, optional=True) for split, patterns in names.items()}
    if not any(files.values()):
        required_file(folder, *(name for patterns in names.values() for name in patterns))
    found = []
    for split, file in files.items():
        if file is None:
            continue
        frame = read_csv(file, ["Path"])
        findings = _chexpert_columns(frame, file)
        parts = [re.search(r"(patient\d+)/(study\d+)(?:/(.+))?$", path or "") for path in frame["Path"]]
        if None in parts:
            raise InputError(f"{file}: column 'Path', row {parts.index(None) + 2}: no patient…/study… in it")
        matched = [one for one in parts if one is not None]
        wide = frame.select(findings).with_columns(
            image=pl.Series([one.group(0).rsplit(".", 1)[0] for one in matched]),
            study=pl.Series([f"{one.group(1)}/{one.group(2)}" for one in matched]),
            patient=pl.Series([one.group(1) for one in matched]),
            split=pl.lit(split),
        )
        found.append(complete(wide_labels(wide, findings, file)))
    return pl.concat(found)


def _chexpert_columns(frame: pl.DataFrame, file: Path) -> list[str]:
    """Those of CheXpert's observations that the table has.

    Raises:
        InputError: it has none.
    """
    findings = [name for name in CHEXPERT_FINDINGS if name in frame.columns]
    if not findings:
        raise InputError(f"{file}: none of CheXpert's 14 columns, such as 'Atelectasis'; is it the published file?")
    return findings


def read_mimic_cxr(folder: Path, *, labeller: str = "chexpert") -> pl.DataFrame:
    """MIMIC-CXR-JPG: a row of CheXpert's 14 columns per study (`mimic-cxr-2.0.0-chexpert.csv`, or `…-negbio.csv`), and the films and
    splits of `mimic-cxr-2.0.0-split.csv`.

    A film has the labels of its study; without the split table, rows are studies without a split. A film whose report no labeller
    read (no row) is unknown. Studies and patients are named as the folders are, s50414267 and p10000032.

    Raises:
        InputError: no file, another column, value or split.
    """
    file = required_file(folder, f"mimic-cxr-*-{labeller}.csv", f"mimic-cxr-*-{labeller}.csv.gz")
    labels = read_csv(file, ["subject_id", "study_id"])
    findings = _chexpert_columns(labels, file)
    named = {"study": "s" + pl.col("study_id"), "patient": "p" + pl.col("subject_id")}
    labels = labels.select(*findings, **named)
    listed = find_file(folder, "mimic-cxr-*-split.csv", "mimic-cxr-*-split.csv.gz", optional=True)
    if listed is None:
        return complete(wide_labels(labels.with_columns(image="study"), findings, file))
    films = read_csv(listed, ["dicom_id", "subject_id", "study_id", "split"])
    if strange := sorted({str(one) for one in films["split"]} - MIMIC_SPLITS.keys()):
        raise InputError(f"{listed}: column 'split' holds {strange[0]!r}; known are {', '.join(MIMIC_SPLITS)}")
    films = films.select(image="dicom_id", split=pl.col("split").replace_strict(MIMIC_SPLITS), **named)
    read = complete(wide_labels(films.join(labels, on=["study", "patient"]), findings, file))
    unread = films.join(labels, on=["study", "patient"], how="anti")
    return pl.concat([read, complete(unread.with_columns(label=pl.lit("unknown")))])


MIMIC_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


NIH_RENAMED = {"Infiltrate": "Infiltration"}
"""Names in BBox_List_2017.csv that Data_Entry_2017.csv writes otherwise."""


def _nih_list(file: Path | None) -> set[str]:
    """Films of a list, one per line: NIH's own (a name), or CARZero's 22,433 (a path and 14 numbers)."""
    if file is None:
        return set()
    return {Path(line.split()[0]).stem for line in file.read_text(encoding="utf-8").splitlines() if line.strip()}


def read_nih(folder: Path) -> pl.DataFrame:
    """NIH ChestX-ray14: `Data_Entry_2017*.csv`, the lists `test_list.txt` and `train_val_list.txt`, boxes of `BBox_List_2017.csv`.

    The test list may be NIH's (25,596 films) or CARZero's (22,433): results on one are not those of the other. A film in no list
    has no split.

    Raises:
        InputError: no file or column, a box that is no number.
    """
    file = required_file(folder, "Data_Entry_2017*.csv")
    frame = read_csv(file, ["Image Index", "Finding Labels", "Patient ID"])
    test, train = (
        _nih_list(find_file(folder, name, optional=True)) for name in ("test_list.txt", "train_val_list.txt")
    )
    boxes = _nih_boxes(find_file(folder, "BBox_List_2017*.csv", optional=True))
    rows: list[dict[str, Any]] = []
    for name, listed, patient in frame.select("Image Index", "Finding Labels", "Patient ID").iter_rows():
        stem = Path(str(name)).stem
        shared = {
            "image": stem,
            "study": stem,
            "patient": patient,
            "split": "test" if stem in test else "train" if stem in train else None,
            "height": NIH_SIZE_YX[0],
            "width": NIH_SIZE_YX[1],
        }
        findings = [one for one in (listed or "").split("|") if one and one != "No Finding"]
        drawn = boxes.get(stem, {})
        for finding in dict.fromkeys([*findings, *drawn]):
            regions = drawn.get(finding, [None])
            rows += [{**shared, "finding": finding, "label": "present", "box": box} for box in regions]
        if not findings and not drawn:
            rows.append(shared)
    return annotation_frame(rows)


def _nih_boxes(file: Path | None) -> dict[str, dict[str, list[list[float] | None]]]:
    """Film → finding → boxes. The header names the four numbers in one bracket (`Bbox [x,y,w,h]`) and leaves columns empty."""
    found: dict[str, dict[str, list[list[float] | None]]] = {}
    if file is None:
        return found
    try:
        raw = pl.read_csv(file, infer_schema=False, has_header=False, skip_rows=1, truncate_ragged_lines=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file}: not a readable CSV table; put the published file there again") from error
    if raw.width < 6:
        raise InputError(f"{file}: {raw.width} columns; film, finding, x, y, w, h are needed")
    raw = raw.rename(dict(zip(raw.columns[:6], ("film", "finding", "x", "y", "w", "h"), strict=True)))
    for row in numbers(raw, ["x", "y", "w", "h"], file).iter_rows(named=True):
        finding = NIH_RENAMED.get(row["finding"], row["finding"])
        box = sized_box(row["x"], row["y"], row["w"], row["h"])
        found.setdefault(Path(row["film"]).stem, {}).setdefault(finding, []).append(box)
    return found
