"""Read and replace elements without the cost of parsing those that stay as they are.

New values are stored as raw elements, encoded here in UTF-8, so that pydicom copies them when it writes.
"""

import struct

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


def text_of(dataset: Dataset, tag: int) -> str:
    """The element as stripped text, values joined by a backslash; "" where absent or empty."""
    if tag not in dataset:
        return ""
    value = dataset.get_item(tag).value
    if isinstance(value, bytes) and value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip(" \0")
    value = dataset[tag].value
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue) else [value]  # a person name is iterable too
    return "\\".join(str(part) for part in parts).strip(" \0")


NUMBER_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def bytes_of(dataset: Dataset, tag: int) -> bytes:
    """The stored bytes of an element; one already parsed is encoded again, numbers little endian, texts in UTF-8."""
    element = dataset.get_item(tag)
    value = element.value
    if isinstance(value, bytes):
        return value
    parts = value if isinstance(value, (MultiValue, list)) else [value]
    if element.VR in NUMBER_FORMATS:
        numbers = [part for part in parts if part not in (None, "")]
        return struct.pack(f"<{len(numbers)}{NUMBER_FORMATS[element.VR]}", *numbers)
    if element.VR == "AT":
        return b"".join(struct.pack("<HH", part >> 16, part & 0xFFFF) for part in parts if part is not None)
    return text_of(dataset, tag).encode("utf-8", "replace")


def put_bytes(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Store `value`, already encoded, as the element `tag`."""
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    dataset[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)


def put_text(dataset: Dataset, tag: int, vr: str, text: str) -> None:
    """Store `text` as the element `tag`, in UTF-8."""
    put_bytes(dataset, tag, vr, text.encode("utf-8", "replace"))


def items_bytes(items: list[Dataset], *, implicit: bool) -> bytes:
    """A sequence's value: items of defined length, ready for `put_bytes`. Source: DICOM PS3.5 section 7.5."""
    encoded = []
    for item in items:
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
        write_dataset(buffer, item)
        content = buffer.getvalue()
        encoded.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    return b"".join(encoded)
