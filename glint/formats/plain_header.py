"""The header of an uncompressed little-endian CT slice, walked without a library.

pydicom makes objects of every element of every slice, which costs as much as reading and rescaling the pixels. What is
not as plain as the walk expects, in any respect, is left to pydicom: `plain_header` returns None.

Source: DICOM PS3.5 sections 7.1 (data elements) and 7.5 (sequences), PS3.10 section 7.1 (file meta information).
"""

import struct
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

HEAD_BYTES = 2**14  # of a file; a header that goes on beyond is left to pydicom
WANTED = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
)
FRAMED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # two reserved bytes, then four of length
WORD_VRS = ("US", "SS")
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_GROUP, META_GROUP = b"\xe0\x7f", b"\x02\x00"
PIXEL_DATA, TRANSFER_SYNTAX = b"\xe0\x7f\x10\x00", b"\x02\x00\x10\x00"
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"


def _tag_bytes(keyword: str) -> bytes:
    tag = tag_for_keyword(keyword) or 0
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


KEYWORDS = {_tag_bytes(keyword): (keyword, dictionary_VR(keyword)) for keyword in WANTED}
FRAMED_TAGS = frozenset(map(_tag_bytes, FRAMED))


@dataclass(frozen=True, kw_only=True)
class PlainHeader:
    """The `WANTED` elements that a file has, bytes and VR by keyword, and where the value of its Pixel Data lies."""

    elements: dict[str, tuple[bytes, str]]
    pixels_start: int
    pixels_length: int


class _NotPlainError(Exception):
    """Something that pydicom has to read."""


def _element(head: bytes, at: int, explicit: bool) -> tuple[bytes, bytes, int, int]:
    """Tag, VR ("" where implicit), first byte of the value and its length, of the element at `at`."""
    if not explicit:
        tag, length = struct.unpack_from("<4sI", head, at)
        return tag, b"", at + 8, length
    tag, vr, short = struct.unpack_from("<4s2sH", head, at)
    if vr in SHORT_VRS:
        return tag, vr, at + 8, short
    if vr in LONG_VRS:
        return tag, vr, at + 12, struct.unpack_from("<I", head, at + 8)[0]
    raise _NotPlainError


def _end_of_sequence(head: bytes, at: int, explicit: bool) -> int:
    """First byte behind a sequence of undefined length whose items start at `at`."""
    while True:
        tag, length = struct.unpack_from("<4sI", head, at)
        at += 8
        if tag == SEQUENCE_END:
            return at
        if tag != ITEM:
            raise _NotPlainError
        at = at + length if length != UNDEFINED_LENGTH else _end_of_item(head, at, explicit)


def _end_of_item(head: bytes, at: int, explicit: bool) -> int:
    while head[at : at + 4] != ITEM_END:
        _, vr, at, length = _element(head, at, explicit)
        at = _behind(head, vr, at, length, explicit)
    return at + 8


def _behind(head: bytes, vr: bytes, start: int, length: int, explicit: bool) -> int:
    if length != UNDEFINED_LENGTH:
        return start + length
    if vr not in (b"", b"SQ"):  # a UN of undefined length is written in another encoding
        raise _NotPlainError
    return _end_of_sequence(head, start, explicit)


def _data_set(head: bytes) -> tuple[int, bool]:
    """First byte of the data set, and whether it states its VRs."""
    if head[128:132] != b"DICM":
        raise _NotPlainError
    at, syntax = 132, ""
    while head[at : at + 2] == META_GROUP:
        tag, _, start, length = _element(head, at, explicit=True)
        if tag == TRANSFER_SYNTAX:
            syntax = head[start : start + length].decode("ascii").rstrip(" \0")
        at = start + length
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise _NotPlainError
    return at, syntax == ExplicitVRLittleEndian


def _value(head: bytes, start: int, length: int, vr: str) -> bytes:
    """An element's bytes, which have to be as plain as its VR allows."""
    value = head[start : start + length]
    usual = length == 2 if vr in WORD_VRS else value.isascii() and b"\x1b" not in value
    if len(value) != length or not usual:
        raise _NotPlainError
    return value


def _walk(head: bytes) -> PlainHeader:
    at, explicit = _data_set(head)
    found: dict[str, tuple[bytes, str]] = {}
    while True:
        tag, vr, start, length = _element(head, at, explicit)
        if tag[:2] == PIXEL_GROUP:
            break
        if tag in FRAMED_TAGS:
            raise _NotPlainError
        if tag in KEYWORDS:
            keyword, expected = KEYWORDS[tag]
            stated = vr.decode("ascii") or expected.split(" or ")[0]
            if keyword in found or stated not in expected.split(" or "):
                raise _NotPlainError
            found[keyword] = _value(head, start, length, stated), stated
        at = _behind(head, vr, start, length, explicit)
    if tag != PIXEL_DATA or length == UNDEFINED_LENGTH or vr not in (b"", b"OB", b"OW"):
        raise _NotPlainError
    return PlainHeader(elements=found, pixels_start=start, pixels_length=length)


def plain_header(head: bytes) -> PlainHeader | None:
    """The header in the first bytes of a file, None where pydicom has to read it.

    Told apart are: no preamble, another transfer syntax than the two uncompressed little-endian ones, functional groups,
    an element of unexpected VR, text beyond ASCII, an element that comes twice, no Pixel Data, the end of `head`.
    """
    try:
        return _walk(head)
    except (_NotPlainError, struct.error, UnicodeDecodeError, RecursionError):
        return None
