"""Elements of a DICOM header, read where they lie: pydicom's own way makes an object of every value, which costs half the reading.

Source: DICOM PS3.5 section 6.2 (value representations).
"""

import math
from functools import cache, lru_cache
from typing import TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from glint.formats.plain_header import PlainHeader

TEXT_NUMBERS = ("DS", "IS")
ABSENT = (b"", "")
Elements: TypeAlias = Dataset | PlainHeader


@cache
def _tag_and_vr(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword) or 0
    return tag, dictionary_VR(tag)


def _raw(dataset: Elements, keyword: str) -> tuple[bytes, str] | None:
    """Bytes and type of an element as it lies in a little-endian file; None where it is absent or was parsed before."""
    if isinstance(dataset, PlainHeader):
        return dataset.elements.get(keyword, ABSENT)
    tag, vr = _tag_and_vr(keyword)
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes) and element.is_little_endian:
        return element.value, element.VR or vr
    return None


@lru_cache(maxsize=4096)  # most of a header is the same in every slice
def _text_as_numbers(text: bytes) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.decode("ascii").strip(" \0").split("\\"))
    except ValueError:
        return None


def numbers_of(dataset: Elements, keyword: str, count: int) -> tuple[float, ...] | None:
    """The `count` finite numbers of an element, or None if it is absent or anything else."""
    numbers: tuple[float, ...] | None
    value, vr = _raw(dataset, keyword) or (b"", "")
    if vr in TEXT_NUMBERS:
        numbers = _text_as_numbers(value)
    elif vr in ("US", "SS") and len(value) == 2:
        numbers = (float(int.from_bytes(value, "little", signed=vr == "SS")),)
    elif isinstance(dataset, PlainHeader):
        numbers = None
    else:
        try:
            given = dataset.get(keyword)
            numbers = tuple(float(entry) for entry in (given if isinstance(given, MultiValue | list) else [given]))
        except (TypeError, ValueError, OverflowError):
            numbers = None
    return numbers if numbers is not None and len(numbers) == count and all(map(math.isfinite, numbers)) else None


def text_of(dataset: Elements, keyword: str) -> str:
    """The element as stripped text, "" where it is absent."""
    value, _ = _raw(dataset, keyword) or (b"\x1b", "")
    if isinstance(dataset, PlainHeader) or (value.isascii() and b"\x1b" not in value):
        return str(value, "ascii").strip(" \0")
    return str(dataset.get(keyword) or "").strip()


def integer_of(dataset: Elements, keyword: str, absent: int) -> int:
    """The one number of an element, cut to a whole one, or `absent`."""
    number = numbers_of(dataset, keyword, 1)
    return absent if number is None else int(number[0])
