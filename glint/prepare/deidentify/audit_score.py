"""Score of a run against its raw files, in the ten actions of MIDI-B and in the retention checks that it lacks.

Source: the action types of CBIIT/MIDI_validation_script. Unlike there, a file that is absent fails every check, a date
must have moved by the same days as all others of its patient, and pixels are compared value for value.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from glint.prepare.deidentify.byte_search import byte_pattern, spellings
from glint.prepare.deidentify.device_regions import Box
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
MIDI_B: tuple[str, ...] = (
    "tag_retained",
    "text_notnull",
    "text_retained",
    "text_removed",
    "date_shifted",
    "uid_changed",
)
MIDI_B += ("uid_consistent", "patid_consistent", "pixels_hidden", "pixels_retained")
OURS = ("instance_retained", "interval_preserved", "reference_closed")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One raw file and what became of it (None: no file); `boxes` were blanked."""

    series_id: str
    raw: FileDataset
    written: FileDataset | None
    content: bytes
    boxes: tuple[Box, ...] = ()


@dataclass
class Score:
    """Checks by (action, attribute, series): False as soon as one file fails."""

    checks: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    uids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    patients: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shifts: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, action: str, attribute: str, series_id: str, passed: bool) -> None:
        """Add the outcome of one file."""
        key = (action, attribute, series_id)
        self.checks[key] = self.checks.get(key, True) and passed

    def table(self) -> list[dict[str, object]]:
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
        score.note("date_shifted", keyword, pair.series_id, after is not None and after != before)
        if after is not None:
            score.shifts[patient].add((after - before).days)
        score.note("interval_preserved", "dates", pair.series_id, after is not None and len(score.shifts[patient]) == 1)


def _add(pair: Pair, score: Score) -> None:
    raw, written, series = pair.raw, pair.written, pair.series_id
    score.note("instance_retained", "file", series, written is not None)
    for keyword in RETAINED:
        if _text(raw, keyword):
            score.note("tag_retained", keyword, series, written is not None and keyword in written)
            score.note("text_retained", keyword, series, _text(raw, keyword) == _text(written, keyword))
    for keyword in (keyword for keyword in NOT_NULL if _text(raw, keyword)):
        score.note("text_notnull", keyword, series, bool(_text(written, keyword)))
    for keywords, kind in ((REMOVED_NAMES, "names"), (REMOVED_TEXTS, "identifiers")):
        for keyword in keywords:
            original = {"names": (), "identifiers": (), "dates": ()} | {kind: [_text(raw, keyword)]}
            if texts := spellings(**original):
                gone = written is not None and byte_pattern(texts).search(pair.content) is None
                score.note("text_removed", keyword, series, gone)
    birth = spellings(names=(), identifiers=(), dates=[_text(raw, "PatientBirthDate")])
    if birth:
        gone = written is not None and byte_pattern(birth).search(pair.content) is None
        score.note("text_removed", "PatientBirthDate", series, gone)
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


def score_run(pairs: Iterable[Pair], refused: Iterable[str] = ()) -> Score:
    """Score every pair of raw and written file; the raw files' own references tell which must still resolve.

    A series of `refused` counts as not retained, and nowhere else.
    """
    score = Score()
    for series_id in refused:
        score.note("instance_retained", "file", series_id, False)
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


def value_counts(datasets: Iterable[Dataset]) -> Mapping[tuple[str, str, str, str], int]:
    """How often every value stands at every place, for a person to read through."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for dataset in datasets:
        counts.update(element_values(dataset))
    return counts
