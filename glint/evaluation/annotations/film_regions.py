"""Annotation files of chest films with places: ChestX-Det, ChestXDet10, SIIM, RSNA, MS-CXR."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.errors import InputError
from glint.evaluation.annotations.raster import inclusive_box, sized_box
from glint.evaluation.annotations.table import (
    annotation_frame,
    find_file,
    numbers,
    one_of,
    read_csv,
    read_json,
    required_file,
)

NIH_SIZE_YX = (1024, 1024)
"""Pixels of the films of NIH ChestX-ray14, on which ChestX-Det, SIIM and RSNA drew too."""


def _chestx_det_rows(file: Path, split: str, *, polygons: bool) -> Iterator[dict[str, Any]]:
    entries = read_json(file)
    if not isinstance(entries, list):
        raise InputError(f"{file}: not a list of films; is it the published file?")
    for place, entry in enumerate(entries):
        stem = Path(str(one_of(entry, "file_name", file, place))).stem
        shared = {"image": stem, "study": stem, "split": split, "height": NIH_SIZE_YX[0], "width": NIH_SIZE_YX[1]}
        names, boxes = one_of(entry, "syms", file, place), one_of(entry, "boxes", file, place)
        contours = one_of(entry, "polygons", file, place) if polygons else [None] * len(names)
        if not len(names) == len(boxes) == len(contours):
            raise InputError(f"{file}: entry {place}: {len(names)} syms, {len(boxes)} boxes, {len(contours)} polygons")
        if not names:
            yield shared
        for name, box, contour in zip(names, boxes, contours, strict=True):
            if len(box) != 4 or box[2] < box[0] or box[3] < box[1]:
                raise InputError(f"{file}: entry {place}: box {box} is not x1, y1, x2, y2")
            yield {
                **shared,
                "finding": str(name),
                "label": "present",
                "box": inclusive_box(*box),
                "polygon": [[float(y), float(x)] for x, y in contour] if contour else None,
            }


def _chestx_det(folder: Path, names: dict[str, str], *, polygons: bool) -> pl.DataFrame:
    files = {split: find_file(folder, name, optional=True) for split, name in names.items()}
    if not any(files.values()):
        required_file(folder, *names.values())
    rows = [
        row
        for split, file in files.items()
        if file is not None
        for row in _chestx_det_rows(file, split, polygons=polygons)
    ]
    return annotation_frame(rows)


def read_chestx_det(folder: Path) -> pl.DataFrame:
    """ChestX-Det: 13 findings, boxes and contours. A box's far corner is the contour's last pixel, so it belongs to the box.

    Raises:
        InputError: no file, or an entry of another form.
    """
    return _chestx_det(folder, {"train": "ChestX_Det_train.json", "test": "ChestX_Det_test.json"}, polygons=True)


def read_chestxdet10(folder: Path) -> pl.DataFrame:
    """ChestXDet10: 10 findings, boxes.

    Raises:
        InputError: no file, or an entry of another form.
    """
    return _chestx_det(folder, {"train": "train.json", "test": "test.json"}, polygons=False)


def read_siim(folder: Path) -> pl.DataFrame:
    """SIIM-ACR's run lengths (`train-rle.csv`, or `stage_2_train.csv`), a row per part; the image is a SOP Instance UID.

    Raises:
        InputError: no file or column.
    """
    file = required_file(folder, "train-rle.csv", "stage_2_train.csv")
    frame = read_csv(file, ["ImageId", "EncodedPixels"])
    rows = []
    for image, rle in frame.select("ImageId", "EncodedPixels").iter_rows():
        drawn = rle is not None and rle != "-1"
        rows.append(
            {
                "image": image,
                "finding": "Pneumothorax",
                "label": "present" if drawn else "absent",
                "rle": rle if drawn else None,
                "height": NIH_SIZE_YX[0],
                "width": NIH_SIZE_YX[1],
            }
        )
    return annotation_frame(rows)


def read_rsna(folder: Path) -> pl.DataFrame:
    """RSNA's boxes (`stage_2_train_labels.csv`), a row per box; the image is the patientId, which names the DICOM file.

    Raises:
        InputError: no file or column, a box that is no number, a positive without a box.
    """
    file = required_file(folder, "stage_2_train_labels.csv")
    box = ["x", "y", "width", "height"]
    frame = numbers(read_csv(file, ["patientId", *box, "Target"]), [*box, "Target"], file)
    rows = []
    for place, row in enumerate(frame.iter_rows(named=True)):
        positive = row["Target"] == 1
        if positive and any(row[name] is None for name in box):
            raise InputError(f"{file}: row {place + 2}: Target 1 without x, y, width, height")
        rows.append(
            {
                "image": row["patientId"],
                "study": row["patientId"],
                "patient": row["patientId"],
                "finding": "Pneumonia",
                "label": "present" if positive else "absent",
                "box": sized_box(*(row[name] for name in box)) if positive else None,
                "height": NIH_SIZE_YX[0],
                "width": NIH_SIZE_YX[1],
            }
        )
    return annotation_frame(rows)


_MS_CXR_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def _mimic_ids(path: str) -> dict[str, str | None]:
    """Study and patient of `files/p10/p10233088/s54276838/675d792f….jpg`, as the folders are named."""
    parts = Path(path).parts
    return {
        "study": next((one for one in parts if one[:1] == "s" and one[1:].isdigit()), None),
        "patient": next((one for one in parts if one[:1] == "p" and one[1:].isdigit() and len(one) > 3), None),
    }


def read_ms_cxr(folder: Path) -> pl.DataFrame:
    """MS-CXR's boxes and phrases, from `MS_CXR_Local_Alignment_*.csv`, else from the COCO file of the same name.

    Boxes are x, y, width, height on the film's own pixels. What isn't drawn is unknown, not absent.

    Raises:
        InputError: no file, column or key.
    """
    file = find_file(folder, "MS_CXR_Local_Alignment_v*.csv", optional=True)
    return annotation_frame(
        _ms_cxr_csv(file) if file else _ms_cxr_coco(required_file(folder, "MS_CXR_Local_Alignment_v*.json"))
    )


def _ms_cxr_csv(file: Path) -> Iterator[dict[str, Any]]:
    box, size = ["x", "y", "w", "h"], ["image_width", "image_height"]
    frame = numbers(
        read_csv(file, ["dicom_id", "category_name", "label_text", "path", *box, *size]), [*box, *size], file
    )
    for row in frame.iter_rows(named=True):
        yield {
            "image": row["dicom_id"],
            **_mimic_ids(row["path"] or ""),
            "split": _MS_CXR_SPLITS.get(row.get("split") or ""),
            "finding": row["category_name"],
            "label": "present",
            "sentence": row["label_text"],
            "box": sized_box(*(row[name] for name in box)),
            "height": int(row["image_height"]),
            "width": int(row["image_width"]),
        }


def _ms_cxr_coco(file: Path) -> Iterator[dict[str, Any]]:
    tree = read_json(file)
    images, names = one_of(tree, "images", file, 0), one_of(tree, "categories", file, 0)
    image_of = {one_of(one, "id", file, place): one for place, one in enumerate(images)}
    name_of = {one_of(one, "id", file, place): one_of(one, "name", file, place) for place, one in enumerate(names)}
    for place, entry in enumerate(one_of(tree, "annotations", file, 0)):
        try:
            image, name = image_of[entry["image_id"]], name_of[entry["category_id"]]
            box, path = sized_box(*entry["bbox"]), str(image.get("path") or image["file_name"])
            size = {"height": int(image["height"]), "width": int(image["width"])}
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: annotation {place} lacks {error}; is it the published file?") from error
        yield {
            "image": Path(path).stem,
            **_mimic_ids(path),
            "split": _MS_CXR_SPLITS.get(str(entry.get("split", ""))),
            "finding": str(name),
            "label": "present",
            "sentence": entry.get("label_text"),
            "box": box,
            **size,
        }
