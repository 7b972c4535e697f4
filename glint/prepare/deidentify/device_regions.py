"""Where known devices draw text into the pixels. Source: `data/README.md`."""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset

from glint.prepare.deidentify.elements import text_of

TABLE_FILE = Path(__file__).parent / "data" / "device_regions.csv"
CONTAINED = {"manufacturer": 0x00080070, "model": 0x00081090, "image_type": 0x00080008, "description": 0x0008103E}
EQUAL = {"modality": 0x00080060, "burned_in": 0x00280301, "rows": 0x00280010, "columns": 0x00280011}


class Box(NamedTuple):
    """A rectangle of pixels: rows `top` to `bottom`, columns `left` to `right`, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


@cache
def _rows() -> tuple[Mapping[str, str], ...]:
    with TABLE_FILE.open(encoding="utf-8", newline="") as handle:
        return tuple(csv.DictReader(handle))


def _holds(row: Mapping[str, str], name: str, value: str) -> bool:
    wanted = row[name].upper()
    return not wanted or (wanted in value.upper() if name in CONTAINED else wanted == value.upper())


@cache
def _regions(values: tuple[tuple[str, str], ...]) -> tuple[Box, ...]:
    boxes = []
    for row in _rows():
        if all(_holds(row, name, value) for name, value in values):
            for text in row["boxes"].split(";"):
                left, top, width, height = (int(part) for part in text.split())
                boxes.append(Box(top, left, top + height, left + width))
    return tuple(boxes)


def device_regions(dataset: Dataset) -> tuple[Box, ...]:
    """Boxes in which the device that made `dataset` draws text; they may reach beyond the image."""
    values = {name: text_of(dataset, tag) for name, tag in CONTAINED.items()}
    for name, tag in EQUAL.items():
        number = name in ("rows", "columns") and tag in dataset
        values[name] = str(dataset[tag].value) if number else text_of(dataset, tag)
    return _regions(tuple(values.items()))
