"""Overlay planes that may stay under the Clean Graphics Option: drawn regions, never text.

Source: DICOM PS3.15 E.3.3 (Clean Graphics Option); PS3.3 C.9.2 (Overlay Plane).
"""

from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from glint.prepare.deidentify.elements import bytes_of, text_of

ROWS, COLUMNS, TYPE, ORIGIN, BITS_ALLOCATED, BIT_POSITION, DATA = 0x10, 0x11, 0x40, 0x50, 0x100, 0x102, 0x3000
SMALLEST_REGION_PIXELS = 64
LARGEST_PIECES = 4  # a line of text falls into more


def region_overlays(dataset: Dataset, tags: Iterable[BaseTag]) -> frozenset[int]:
    """Tags of overlay planes that hold a few filled regions; labels, descriptions and everything else are left out."""
    groups = sorted({tag >> 16 for tag in tags if 0x6000 <= tag >> 16 <= 0x60FF})
    kept = [group for group in groups if _is_region(dataset, group << 16)]
    numbers = (ROWS, COLUMNS, TYPE, ORIGIN, BITS_ALLOCATED, BIT_POSITION, DATA)
    return frozenset(group << 16 | number for group in kept for number in numbers)


def _is_region(dataset: Dataset, base: int) -> bool:
    """True for type R with a bitmap of its own in which every piece is large and without holes, unlike letters."""
    from scipy import ndimage

    if text_of(dataset, base | TYPE) != "R" or any(base | tag not in dataset for tag in (ROWS, COLUMNS, DATA)):
        return False
    sizes = [bytes_of(dataset, base | tag) for tag in (ROWS, COLUMNS)]
    rows, columns = (int.from_bytes(size, "little") for size in sizes)
    content = bytes_of(dataset, base | DATA)
    length = (rows * columns + 7) // 8
    if not 0 < length <= len(content) <= length + 1 or any(content[length:]):
        return False
    bits_YX = np.unpackbits(np.frombuffer(content[:length], np.uint8), bitorder="little")[: rows * columns]
    pieces_YX, count = ndimage.label(bits_YX.reshape(rows, columns))
    areas = np.bincount(pieces_YX.ravel())[1:]
    filled = ndimage.binary_fill_holes(pieces_YX > 0)
    return bool(0 < count <= LARGEST_PIECES and areas.min() >= SMALLEST_REGION_PIXELS and filled.sum() == areas.sum())
