"""What may stay where the profile table is silent: short lists of what is known to be safe, all else goes.

Source: DICOM PS3.15 E.3.5 note 2 (extract what is known to be safe, drop the rest).
"""

import re
from functools import cache

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import DicomDictionary, tag_for_keyword

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image, for presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray Image, for processing",
}
TEXT_VRS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC"})
BINARY_NUMBER_VRS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT"})
NUMBERS_THAT_HOLD_IDS = frozenset({"IS", "DS", "UL", "SL", "UV", "SV"})  # 16 bits hold five digits
LONG_NUMBER_DIGITS = 6  # a shorter identifier may equal a number of rows, a dose, an exposure
BULK_VRS = frozenset({"OB", "OW", "OD", "OF", "OL", "OV"})
DATE_VRS = frozenset({"DA", "DT", "TM"})
# Values of these are checked against the pattern and dropped where they don't fit: a name in a number field goes.
PATTERN_BY_VR = {
    "DS": re.compile(rb"[0-9eE+\-. \\]*\0?"),
    "IS": re.compile(rb"[0-9+\- \\]*\0?"),
    "CS": re.compile(rb"[A-Za-z0-9_ \\/.\-+]*\0?"),
}


def _tags(*keywords: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in keywords]
    return frozenset(tag for tag in found if tag is not None)


# Their words pass the list of safe words.
ALLOWED_TEXT = _tags(
    "CodingSchemeDesignator",
    "ConvolutionKernel",
    "FilterType",
    "Manufacturer",
    "ManufacturerModelName",
    "RescaleType",
    "SoftwareVersions",
    "TimezoneOffsetFromUTC",
)
ALLOWED_BULK = _tags(
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
MANUFACTURER = 0x00080070
CODE_VALUE, CODING_SCHEME, CODE_MEANING, LUT_DATA = 0x00080100, 0x00080102, 0x00080104, 0x00283006
ANY_CODE_VALUE = (CODE_VALUE, 0x00080119, 0x00080120)  # short, long and URN: an item without one is no code
# Codes of public schemes only: a local code may hold anything.
CODING_SCHEMES = frozenset({"DCM", "SCT", "SRT", "SNM3", "LN", "RADLEX"})
CODE_PATTERN = re.compile(r"[A-Z]{0,3}-?[A-Z0-9]?[0-9]{2,18}|[0-9]{1,5}-[0-9]")
RATIO = re.compile(r"[0-9]{1,2}\.[0-9]{1,4}:1")  # the one text on the list of safe private elements: pitch
UNIT_CODES = frozenset({"1", "mm", "cm", "m", "s", "ms", "mA", "mAs", "kV", "mGy", "cm2", "mm2", "Gy", "%", "[hnsf'U]"})
EMPTIED_TEXT = _tags("PositionReferenceIndicator", "StudyID")
# Words that other tools leave behind; they name nobody, so finding them in the output means nothing.
PLACEHOLDERS = frozenset(
    {"anon", "anonymous", "anonymized", "anonymised", "deidentified", "name", "none", "patient", "removed", "unknown"}
)


@cache
def known_vrs(tag: int) -> tuple[str, ...]:
    """Value representations that the dictionary allows for a standard tag; empty for an unknown one."""
    entry = DicomDictionary.get(tag)
    return tuple(entry[0].split(" or ")) if entry else ()


def is_structural_uid(uid: str) -> bool:
    """True for UIDs that the standard registers (SOP classes, transfer syntaxes, coding schemes)."""
    return uid in UID_dictionary
