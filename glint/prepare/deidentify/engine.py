"""Clean one data set in place, sequences within sequences included; what is not understood goes.

Source: DICOM PS3.15 Annex E. Order at every level: groups without public meaning, the profile table under the chosen
options, then a net by value representation for attributes the table does not list, with free text by allow-list.
"""

import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms
from glint.prepare.deidentify import rules
from glint.prepare.deidentify.elements import bytes_of, items_bytes, put_bytes, put_text, text_of
from glint.prepare.deidentify.graphics import region_overlays
from glint.prepare.deidentify.safe_private import SafePrivate, safe_private_elements
from glint.prepare.deidentify.table import EDITION
from glint.prepare.deidentify.values import (
    age_from_dates,
    capped_age,
    checked_time,
    is_lookup_table,
    number_hides_text,
    shift_date,
    shift_datetime,
    whole_number,
)
from glint.prepare.deidentify.vocabulary import safe_codes, safe_text

METHOD = f"GLINT: PS3.15 E.1-1 {EDITION}, keyed UIDs, dates shifted by weeks"
MAX_DEPTH = 24
CODE_MEANINGS = {  # Source: DICOM PS3.16 CID 7050
    "113100": "Basic Application Confidentiality Profile",
    "113103": "Clean Graphics Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113111": "Retain Safe Private Option",
}
GRAPHICS_CLEAN, DATES_MOVED, CHARACTERISTICS_KEPT, PRIVATE_KEPT = "113103", "113107", "113108", "113111"
CHARACTER_SET, STUDY_DATE, ACCESSION = 0x00080005, 0x00080020, 0x00080050
PATIENT_NAME, PATIENT_ID, BIRTH_DATE = 0x00100010, 0x00100020, 0x00100030
OTHER_IDS, PATIENT_AGE = 0x00101000, 0x00101010
IDENTITY_REMOVED, METHOD_TEXT, METHOD_CODES, DATES_MODIFIED = 0x00120062, 0x00120063, 0x00120064, 0x00280303
DUMMIES = {"DA": "19000101", "DT": "19000101", "TM": "000000", "DS": "0", "IS": "0", "AS": "000Y"}
DUMMY_TEXT_VRS = rules.TEXT_VRS | {"CS", "PN"}


@dataclass
class Trace:
    """What happened, by (action, keyword), and the original identifiers that must not be found in the output."""

    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    uids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """De-identifies the data sets of one patient.

    Args:
        actions: Tag → action, from `table.profile_actions`.
        patient_key: Raw patient ID, or what stands for it; sets pseudonym and date shift.
        codes: CID 7050 codes of profile and options, written to (0012,0064).
        verbatim: Text attributes that an option keeps as they are: the identity of the device.
        forbidden_words: Lower-case words that no kept text may hold: parts of the patient's and physicians' names.
        forbidden_numbers: Digits that no number element may consist of: the patient's long identifiers.
    """

    pseudonyms: Pseudonyms
    actions: Mapping[int, str]
    patient_key: str
    codes: tuple[str, ...]
    verbatim: frozenset[int] = frozenset()
    forbidden_words: frozenset[str] = frozenset()
    forbidden_numbers: frozenset[str] = frozenset()

    def clean(self, dataset: Dataset) -> Trace:
        """Clean `dataset` in place and mark it as de-identified.

        Raises:
            Quarantine: `too_deep`, sequences nest beyond what images need.
        """
        trace = Trace()
        age = age_from_dates(text_of(dataset, BIRTH_DATE), text_of(dataset, STUDY_DATE))
        self._clean_level(dataset, trace, depth=0)
        pseudonym = self.pseudonyms.patient_id(self.patient_key)
        put_text(dataset, PATIENT_ID, "LO", pseudonym)
        put_text(dataset, PATIENT_NAME, "PN", pseudonym)
        if CHARACTERISTICS_KEPT in self.codes and age is not None and not text_of(dataset, PATIENT_AGE):
            put_text(dataset, PATIENT_AGE, "AS", age)
        modified = "MODIFIED" if DATES_MOVED in self.codes else "REMOVED"
        put_text(dataset, CHARACTER_SET, "CS", "ISO_IR 192")
        put_text(dataset, IDENTITY_REMOVED, "CS", "YES")
        put_text(dataset, METHOD_TEXT, "LO", METHOD)
        put_text(dataset, DATES_MODIFIED, "CS", modified)
        put_bytes(dataset, METHOD_CODES, "SQ", _code_items(self.codes, implicit=bool(dataset.original_encoding[0])))
        return trace

    def _clean_level(self, dataset: Dataset, trace: Trace, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Quarantine("too_deep", f"sequences nest more than {MAX_DEPTH} deep")
        tags = list(dataset.keys())
        kept = safe_private_elements(dataset, tags) if PRIVATE_KEPT in self.codes else {}
        graphics = region_overlays(dataset, tags) if GRAPHICS_CLEAN in self.codes else frozenset()
        for tag in tags:
            if tag in kept:
                self._keep_private(dataset, tag, kept[tag], trace)
            elif tag in graphics:
                trace.actions["kept_region", keyword_for_tag(tag)] += 1
            else:
                self._clean_element(dataset, tag, trace, depth)

    def _keep_private(self, dataset: Dataset, tag: BaseTag, safe: SafePrivate, trace: Trace) -> None:
        """Keep a private element of the safe list whose value is what the list says; its creator as the list spells it."""
        if safe.creator_only:
            put_text(dataset, tag, "LO", safe.creator)
        elif safe.vr != "SH" or not rules.RATIO.fullmatch(text_of(dataset, tag)):
            put_bytes(dataset, tag, safe.vr, bytes_of(dataset, tag))
            self._net(dataset, tag, safe.vr, trace)
        trace.actions["kept_safe_private" if tag in dataset else "removed", "private"] += 1

    def _clean_element(self, dataset: Dataset, tag: BaseTag, trace: Trace, depth: int) -> None:
        name = "nested_character_set" if depth and tag == CHARACTER_SET else _closed_group(tag)
        vrs = () if name else rules.known_vrs(tag)
        if name or not vrs:
            del dataset[tag]
            trace.actions["removed", name or "unknown_attribute"] += 1
            return
        vr = dataset.get_item(tag).VR
        if vr == "UN":  # copied through a system that did not know the attribute: pydicom asks its dictionary
            vr = dataset[tag].VR
        elif vr is None or (vr not in vrs and " or " in vr):  # implicit VR files leave it to the dictionary
            vr = vrs[0]
        action = self._apply(dataset, tag, vr, trace, depth) if vr in vrs else _remove(dataset, tag)
        if action is not None:
            trace.actions[action, keyword_for_tag(tag)] += 1

    def _apply(self, dataset: Dataset, tag: BaseTag, vr: str, trace: Trace, depth: int) -> str | None:
        """Do what table and net ask of one attribute; returns what was done, None for an untouched one."""
        _remember(dataset, tag, vr, trace)
        action = self.actions.get(tag)
        if tag == PATIENT_ID:
            return _replace(dataset, tag, vr, self._patient_pseudonym(text_of(dataset, tag)), "pseudonymized")
        if tag == ACCESSION:
            original = text_of(dataset, tag)
            return _replace(dataset, tag, vr, self.pseudonyms.accession(original) if original else "", "pseudonymized")
        if action == "X":
            return _remove(dataset, tag)
        if action == "Z":
            return _replace(dataset, tag, vr, "", "emptied")
        if action == "D" and vr != "UI":
            return _dummy(dataset, tag, vr)
        if vr == "SQ":
            return self._clean_items(dataset, tag, trace, depth)
        return self._net(dataset, tag, vr, trace)

    def _clean_items(self, dataset: Dataset, tag: BaseTag, trace: Trace, depth: int) -> str | None:
        """Clean every item; coded ones that lost their code go, as an item of a code sequence needs it."""
        items = list(dataset[tag].value)
        coded = [any(code in item for code in rules.ANY_CODE_VALUE) for item in items]
        for item in items:
            self._clean_level(item, trace, depth + 1)
        kept = [item for item, was in zip(items, coded, strict=True) if not was or rules.CODE_VALUE in item]
        if items and not kept:
            return _remove(dataset, tag)
        if len(kept) < len(items):
            dataset[tag].value = kept
            return "cleaned_codes"
        return None

    def _net(self, dataset: Dataset, tag: BaseTag, vr: str, trace: Trace) -> str | None:
        """By value representation, for what the table keeps, cleans or does not know."""
        if tag == rules.LUT_DATA:
            return None if is_lookup_table(bytes_of(dataset, tag)) else _remove(dataset, tag)
        if vr in rules.BINARY_NUMBER_VRS:
            hides = number_hides_text(vr, bytes_of(dataset, tag)) or self._is_forbidden(dataset, tag, vr)
            return _remove(dataset, tag) if hides else None
        if vr in ("IS", "DS") and self._is_forbidden(dataset, tag, vr):
            return _replace(dataset, tag, vr, "", "emptied")
        if vr == "UI":
            return self._map_uids(dataset, tag, trace)
        if vr in rules.DATE_VRS:
            return self._move_date(dataset, tag, vr)
        if vr in rules.PATTERN_BY_VR:
            return _check_pattern(dataset, tag, vr)
        if vr == "AS":
            age = capped_age(text_of(dataset, tag))
            return _remove(dataset, tag) if age is None else _replace(dataset, tag, vr, age, "kept_age")
        if vr in rules.BULK_VRS and tag in rules.ALLOWED_BULK:
            return _remove(dataset, tag) if vr == "OV" and number_hides_text(vr, bytes_of(dataset, tag)) else None
        if vr in rules.TEXT_VRS:
            return self._text(dataset, tag, vr)
        return _remove(dataset, tag)

    def _is_forbidden(self, dataset: Dataset, tag: BaseTag, vr: str) -> bool:
        """True where a value of a number element is one of the patient's long identifiers."""
        if not self.forbidden_numbers or vr not in rules.NUMBERS_THAT_HOLD_IDS:
            return False
        if not self._number_bytes.search(bytes_of(dataset, tag)):
            return False
        value = dataset[tag].value
        return any(
            whole_number(str(part)) in self.forbidden_numbers
            for part in (value if isinstance(value, MultiValue | list) else [value])
        )

    @cached_property
    def _number_bytes(self) -> re.Pattern[bytes]:
        """A quick look, since nearly no element holds one: as text, or in 32 bits (64 bits begin with them)."""
        numbers = [int(number) for number in self.forbidden_numbers]
        forms = [str(n).encode() for n in numbers] + [struct.pack("<I", n) for n in numbers if n < 1 << 32]
        forms += [struct.pack("<Q", n) for n in numbers if 1 << 32 <= n < 1 << 64]
        return re.compile(b"|".join(map(re.escape, forms)))

    def _text(self, dataset: Dataset, tag: BaseTag, vr: str) -> str:
        """Free text: the device's identity as it is, safe words of what an option cleans, else nothing."""
        if tag in self.verbatim:
            return _replace(dataset, tag, vr, text_of(dataset, tag), "kept_device")
        if tag == rules.CODE_VALUE:
            return _check_code(dataset, tag)
        if tag == rules.CODE_MEANING and rules.CODE_VALUE in dataset:
            meaning = safe_text(text_of(dataset, tag), self.forbidden_words)
            return _replace(dataset, tag, vr, meaning or text_of(dataset, rules.CODE_VALUE), "cleaned_text")
        if tag in rules.ALLOWED_TEXT or self.actions.get(tag) in ("C", "K"):
            original = text_of(dataset, tag)
            safe = "\\".join(safe_text(part, self.forbidden_words) for part in original.split("\\"))
            if tag == rules.MANUFACTURER and original and not safe:
                safe = "REMOVED"  # of equipment that contributed it is required (PS3.3 C.12.1)
            return _replace(dataset, tag, vr, safe, "kept_text" if safe == original else "cleaned_text")
        if tag in rules.EMPTIED_TEXT:
            return _replace(dataset, tag, vr, "", "emptied")
        return _remove(dataset, tag)

    def _patient_pseudonym(self, original: str) -> str:
        return self.pseudonyms.patient_id(original) if original else ""

    def _map_uids(self, dataset: Dataset, tag: BaseTag, trace: Trace) -> str | None:
        originals = [uid.strip(" \0") for uid in text_of(dataset, tag).split("\\")]
        private = [uid for uid in originals if uid and not rules.is_structural_uid(uid)]
        if not private:
            return None
        trace.uids.update(private)
        mapped = [self.pseudonyms.uid(uid) if uid in private else uid for uid in originals]
        return _replace(dataset, tag, "UI", "\\".join(mapped), "uid_mapped")

    def _move_date(self, dataset: Dataset, tag: BaseTag, vr: str) -> str:
        """Shift days, keep times; without that option, or where a value can't be read, leave the attribute empty."""
        parts = text_of(dataset, tag).split("\\")
        days = self.pseudonyms.date_shift_days(self.patient_key)
        if DATES_MOVED not in self.codes:
            return _replace(dataset, tag, vr, "", "emptied")
        if vr == "TM":
            moved = [checked_time(part) for part in parts]
        else:
            shift = shift_date if vr == "DA" else shift_datetime
            moved = [shift(part, days) for part in parts]
        known = [part for part in moved if part is not None]
        if len(known) < len(moved):
            return _replace(dataset, tag, vr, "", "unreadable_date_emptied")
        return _replace(dataset, tag, vr, "\\".join(known), "time_kept" if vr == "TM" else "date_shifted")


def _closed_group(tag: BaseTag) -> str:
    """A name for what is dropped whole, whatever it holds; "" for an ordinary public attribute."""
    group = tag >> 16
    if group & 1:
        return "private"
    if 0x5000 <= group <= 0x50FF:
        return "curve"
    if 0x6000 <= group <= 0x60FF:
        return "overlay"
    if group < 0x0008 or group > 0x7FE0 or tag & 0xFFFF == 0:
        return "group_length_or_wrapping"
    return ""


def _remember(dataset: Dataset, tag: BaseTag, vr: str, trace: Trace) -> None:
    """Note identities of any level for the scan of the output."""
    if vr == "PN":
        trace.names.update(name for name in text_of(dataset, tag).split("\\") if name)
    elif tag in (PATIENT_ID, OTHER_IDS, ACCESSION):
        trace.identifiers.update(part for part in text_of(dataset, tag).split("\\") if part)


def _check_pattern(dataset: Dataset, tag: BaseTag, vr: str) -> str | None:
    """Numbers must be numbers; coded strings keep the values whose words are known."""
    value = bytes_of(dataset, tag)
    if not rules.PATTERN_BY_VR[vr].fullmatch(value):
        return _remove(dataset, tag)
    safe = safe_codes(value) if vr == "CS" else None
    if safe is None:
        return None
    put_bytes(dataset, tag, vr, safe)
    return "cleaned_code"


def _check_code(dataset: Dataset, tag: BaseTag) -> str:
    value, scheme = text_of(dataset, tag), text_of(dataset, rules.CODING_SCHEME)
    public = scheme in rules.CODING_SCHEMES and rules.CODE_PATTERN.fullmatch(value)
    if public or (scheme == "UCUM" and value in rules.UNIT_CODES):
        return _replace(dataset, tag, "SH", value, "kept_text")
    return _remove(dataset, tag)


def _remove(dataset: Dataset, tag: BaseTag) -> str:
    del dataset[tag]
    return "removed"


def _replace(dataset: Dataset, tag: int, vr: str, value: str, action: str) -> str:
    put_text(dataset, tag, vr, value)
    return action


def _dummy(dataset: Dataset, tag: BaseTag, vr: str) -> str:
    if vr in DUMMIES:
        return _replace(dataset, tag, vr, DUMMIES[vr], "dummy")
    if vr in DUMMY_TEXT_VRS:
        return _replace(dataset, tag, vr, "REMOVED", "dummy")
    return _remove(dataset, tag)


@cache
def _code_items(codes: tuple[str, ...], *, implicit: bool) -> bytes:
    items = []
    for value in codes:
        item = Dataset()
        item.CodeValue = value
        item.CodingSchemeDesignator = "DCM"
        item.CodeMeaning = CODE_MEANINGS[value]
        items.append(item)
    return items_bytes(items, implicit=implicit)
