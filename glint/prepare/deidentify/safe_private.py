"""Private elements known to be safe, by creator and element.

Source: DICOM PS3.15 E.3.10 (Retain Safe Private Option); `data/safe_private.csv` lists those of CT and X-ray scanners
that hold numbers or codes. The block that a creator reserved differs from file to file: its text decides, not its number.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from glint.prepare.deidentify.elements import text_of

SAFE_PRIVATE_FILE = Path(__file__).parent / "data" / "safe_private.csv"


@dataclass(frozen=True, kw_only=True)
class SafePrivate:
    """What an element must be; `creator_only` marks the element that names its block's creator."""

    creator: str
    vr: str
    creator_only: bool = False


@cache
def safe_private_list() -> Mapping[tuple[str, int, int], str]:
    """(creator, group, element within its block) → value representation."""
    with SAFE_PRIVATE_FILE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {(row["creator"], int(row["group"], 16), int(row["element"], 16)): row["vr"] for row in rows}


def safe_private_elements(dataset: Dataset, tags: Iterable[BaseTag]) -> dict[BaseTag, SafePrivate]:
    """The elements of one level that may stay, and the creator elements that they need."""
    kept: dict[BaseTag, SafePrivate] = {}
    for tag in tags:
        group, element = tag >> 16, tag & 0xFFFF
        if not group & 1 or element < 0x1000:
            continue
        creator_tag = BaseTag(group << 16 | element >> 8)
        creator = text_of(dataset, creator_tag)
        vr = safe_private_list().get((creator, group, element & 0xFF))
        if vr is not None and dataset.get_item(tag).VR in (vr, "UN", None):
            kept[tag] = SafePrivate(creator=creator, vr=vr)
            kept[creator_tag] = SafePrivate(creator=creator, vr="LO", creator_only=True)
    return kept
