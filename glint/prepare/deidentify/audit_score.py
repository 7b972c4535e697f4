"""Score of a run against its raw files, in the ten actions of MIDI-B and in the retention checks that it lacks.

Source: the action types of CBIIT/MIDI_validation_script. Unlike there, a file that is absent fails every check, a date
must have moved by the same days as all others of its patient, and pixels are compared value for value.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from glint.core.config.deidentify import DeidentifyConfig
from glint.prepare.deidentify.byte_search import byte_pattern, spellings
from glint.prepare.deidentify.device_regions import Box
from glint.prepare.deidentify.residual import PIXEL_SHORTEST
from glint.prepare.deidentify.rules import is_structural_uid
from glint.prepare.deidentify.values import parse_date

RETAINED: tuple[str, ...] = (
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagePositionPatient",
)
RETAINED += (
    "ImageOrientationPatient",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "PhotometricInterpretation",
)
RETAINED += ("Modality", "InstanceNumber", "KVP", "WindowCenter", "WindowWidth", "SOPClassUID")
NOT_NULL = ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
REMOVED_NAMES = ("PatientName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName")
REMOVED_TEXTS = (
    "PatientID",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "OtherPatientIDs",
)
REMOVED = (
    (REMOVED_NAMES, "names"),
    (REMOVED_TEXTS, "identifiers"),
    (("PatientBirthDate",), "dates"),
    (UIDS, "uids"),
)
MIDI_B: tuple[str, ...] = (
    "tag_retained",
    "text_notnull",
    "text_retained",
    "text_removed",
    "date_shifted",
    "uid_changed",
)
MIDI_B += ("uid_consistent", "patid_consistent", "pixels_hidden", "pixels_retained")
REFUSED = "refused"  # in the place of the attribute
OURS = ("instance_retained", "interval_preserved", "reference_closed")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One raw file and what became of it (None: no file); `boxes` were blanked."""

    series_id: str
    raw: FileDataset
    written: FileDataset | None
    content: bytes
    boxes: tuple[Box, ...] = ()

    def holds(self, pattern: re.Pattern[bytes], in_pixels: re.Pattern[bytes]) -> bool:
        """True if the written file has `pattern` before its pixels, or `in_pixels` in them."""
        pixels = len(self.written.get("PixelData", b"")) if self.written is not None else 0
        start = len(self.content) - pixels
        return bool(pattern.search(self.content, 0, start) or in_pixels.search(self.content, start))


@dataclass
class Score:
    """Checks by (action, attribute, series): False as soon as one file fails."""

    config: DeidentifyConfig = field(default_factory=DeidentifyConfig)
    checks: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    uids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    patients: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shifts: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, action: str, attribute: str, series_id: str, passed: bool) -> None:
        """Add the outcome of one file."""
        key = (action, attribute, series_id)
        self.checks[key] = self.checks.get(key, True) and passed

    def faults(self) -> int:
        """Checks that failed; a series refused is none, it is not there to leak."""
        return sum(not passed for (_, attribute, _), passed in self.checks.items() if attribute != REFUSED)

    def table(self) -> list[dict[str, Any]]:
        """Rows `action, passed, total, failed_on` in fixed order; an action nobody could check has total 0."""
        passed, total = Counter[str](), Counter[str]()
        failed: dict[str, set[str]] = defaultdict(set)
        for (action, attribute, _), outcome in self.checks.items():
            total[action] += 1
            passed[action] += outcome
            if not outcome:
                failed[action].add(attribute)
        return [
            {"action": name, "passed": passed[name], "total": total[name], "failed_on": ", ".join(sorted(failed[name]))}
            for name in (*MIDI_B, *OURS)
        ]


def _text(dataset: Dataset | None, keyword: str) -> str:
    value = None if dataset is None else dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _values(dataset: FileDataset) -> NDArray[np.generic]:
    pixels: NDArray[np.generic] = dataset.pixel_array
    return pixels


def _pixels(pair: Pair, score: Score) -> None:
    """Outside the boxes equal, value for value; inside one value for each frame."""
    if pair.written is None:
        score.note("pixels_retained", "PixelData", pair.series_id, False)
        return
    if not pair.boxes:
        same = pair.raw.PixelData == pair.written.PixelData
        score.note("pixels_retained", "PixelData", pair.series_id, same)
        return
    before, after = _values(pair.raw), _values(pair.written)
    outside = np.ones(after.shape[-2:], dtype=bool)
    flat = True
    for top, left, bottom, right in pair.boxes:
        outside[top:bottom, left:right] = False
        frames = after.reshape(-1, *after.shape[-2:])[:, top:bottom, left:right]
        # Boxes that overlap keep each their own fill: few values, far from what letters have.
        flat &= all(len(np.unique(frame)) <= len(pair.boxes) for frame in frames)
    score.note("pixels_hidden", "PixelData", pair.series_id, flat)
    same = before.shape == after.shape and bool(np.array_equal(before[..., outside], after[..., outside]))
    score.note("pixels_retained", "PixelData", pair.series_id, same)


def _dates(pair: Pair, score: Score) -> None:
    patient = _text(pair.raw, "PatientID")
    for keyword in DATES:
        before = parse_date(_text(pair.raw, keyword))
        if before is None or before == date(1900, 1, 1):
            continue
        after = parse_date(_text(pair.written, keyword))
        if not score.config.retain_modified_dates:  # emptied
            score.note("date_shifted", keyword, pair.series_id, pair.written is not None and after is None)
            continue
        score.note("date_shifted", keyword, pair.series_id, after is not None and after != before)
        if after is not None:
            score.shifts[patient].add((after - before).days)
        score.note("interval_preserved", "dates", pair.series_id, after is not None and len(score.shifts[patient]) == 1)


@lru_cache(maxsize=4096)
def _patterns(kind: str, text: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]] | None:
    """What finds `text` in a header and, where it is too long to occur there by chance, in pixels.

    None where it is too short to be looked for. Kinds: names, identifiers, dates, uids.
    """
    if kind == "uids":
        if not text or is_structural_uid(text):
            return None
        pattern = re.compile(re.escape(text.encode()) + rb"(?![0-9.])")
        return pattern, pattern
    wanted = {"names": (), "identifiers": (), "dates": ()} | {kind: (text,)}
    texts = spellings(names=wanted["names"], identifiers=wanted["identifiers"], dates=wanted["dates"])
    long = [found for found in texts if len(found) >= PIXEL_SHORTEST]
    return (byte_pattern(texts), byte_pattern(long)) if texts else None


def _add(pair: Pair, score: Score) -> None:
    raw, written, series = pair.raw, pair.written, pair.series_id
    score.note("instance_retained", "file", series, written is not None)
    for keyword in RETAINED:
        if _text(raw, keyword):
            score.note("tag_retained", keyword, series, written is not None and keyword in written)
            score.note("text_retained", keyword, series, _text(raw, keyword) == _text(written, keyword))
    for keyword in (keyword for keyword in NOT_NULL if _text(raw, keyword)):
        score.note("text_notnull", keyword, series, bool(_text(written, keyword)))
    for keywords, kind in REMOVED:
        for keyword in keywords:
            if keyword == "StationName" and score.config.retain_device_identity:
                continue
            if patterns := _patterns(kind, _text(raw, keyword)):
                score.note("text_removed", keyword, series, written is not None and not pair.holds(*patterns))
    for keyword in UIDS:
        if before := _text(raw, keyword):
            after = _text(written, keyword)
            score.note("uid_changed", keyword, series, bool(after) and after != before)
            # A series that the index split keeps one UID for each part.
            same = score.uids[f"{before} {series}" if keyword == "SeriesInstanceUID" else before]
            same.add(after)
            score.note("uid_consistent", keyword, series, bool(after) and len(same) == 1)
    before = _text(raw, "PatientID")
    score.patients[before].add(_text(written, "PatientID"))
    consistent = bool(_text(written, "PatientID")) and len(score.patients[before]) == 1
    score.note("patid_consistent", "PatientID", series, consistent)
    _dates(pair, score)
    _pixels(pair, score)


def _references(dataset: Dataset | None) -> Iterator[str]:
    if dataset is not None:
        for element in dataset.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                yield str(element.value)


def score_run(pairs: Iterable[Pair], refused: Iterable[str], config: DeidentifyConfig) -> Score:
    """Score every pair of raw and written file; the raw files' own references tell which must still resolve.

    A series of `refused` counts as not retained, and nowhere else; `config` says what was to be kept.
    """
    score = Score(config=config)
    for series_id in refused:
        score.note("instance_retained", REFUSED, series_id, False)
    references: list[tuple[str, list[str], list[str]]] = []
    known: dict[str, str] = {}
    for pair in pairs:
        _add(pair, score)
        known[_text(pair.raw, "SOPInstanceUID")] = _text(pair.written, "SOPInstanceUID")
        references.append((pair.series_id, list(_references(pair.raw)), list(_references(pair.written))))
    for series_id, before, after in references:
        inside = [known[uid] for uid in before if uid in known]
        if inside:
            score.note("reference_closed", "ReferencedSOPInstanceUID", series_id, set(inside) <= set(after))
    return score


def element_values(dataset: Dataset, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(tag path, keyword, VR, value) of every element but pixels, items of sequences included."""
    for element in dataset:
        place = f"{path}({element.tag.group:04X},{element.tag.element:04X})"
        if element.VR == "SQ":
            for item in element.value:
                yield from element_values(item, f"{place}/")
        elif element.VR in ("OB", "OW", "OD", "OF", "OL", "OV", "UN"):
            yield place, element.keyword, element.VR, f"{len(element.value or b'')} bytes"
        else:
            yield place, element.keyword, element.VR, str(element.value)[:200]
