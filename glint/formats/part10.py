"""The bytes around a data set: preamble and file meta information, and words the other way round.

Source: DICOM PS3.10 section 7, PS3.5 sections 6.2 and 7.1.
"""

import struct

import numpy as np

IMPLEMENTATION_CLASS_UID = "2.25.306139217650316283962530149026812917651"
IMPLEMENTATION_VERSION = "GLINT_01"
WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def _meta_element(element: int, vr: str, value: bytes) -> bytes:
    """One element of group 0002, explicit VR little endian, padded to even length. Source: PS3.5 section 7.1."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH2s", 2, element, vr.encode())
    return head + struct.pack("<xxI" if vr == "OB" else "<H", len(value)) + value


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    """A zeroed preamble and file meta information. Source: PS3.10 table 7.1-1; written here as pydicom's writer copies it three times."""
    elements = (
        _meta_element(0x0001, "OB", b"\0\1")
        + _meta_element(0x0002, "UI", sop_class_uid.encode())
        + _meta_element(0x0003, "UI", sop_instance_uid.encode())
        + _meta_element(0x0010, "UI", transfer_syntax.encode())
        + _meta_element(0x0012, "UI", IMPLEMENTATION_CLASS_UID.encode())
        + _meta_element(0x0013, "SH", IMPLEMENTATION_VERSION.encode())
    )
    return b"\0" * 128 + b"DICM" + _meta_element(0x0000, "UL", struct.pack("<I", len(elements))) + elements


def swapped_words(value: bytes, size: int) -> bytes:
    """`value` with the bytes of every word of `size` bytes in reverse; an odd rest is cut-off data and stays."""
    whole = len(value) // size * size
    return np.frombuffer(value[:whole], f"V{size}").view("u1").reshape(-1, size)[:, ::-1].tobytes() + value[whole:]
