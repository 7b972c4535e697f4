"""What a series is, from its headers alone, and whether it can be a chest volume."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from glint.formats.dicom import InstanceHeader
from glint.prepare.index.parts import plane_normal

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
}
ENHANCED_CLASSES = CT_CLASSES - {"1.2.840.10008.5.1.4.1.1.2"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DOSE_CLASSES = {"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.68"}
KIND_BY_CLASS = {  # by the start of the SOP class UID, the first that fits; source: PS3.4 table B.5-1
    "1.2.840.10008.5.1.4.1.1.88.59": "key_objects",
    "1.2.840.10008.5.1.4.1.1.88.": "structured_report",
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation_state",
    "1.2.840.10008.5.1.4.1.1.481.": "radiotherapy",
    "1.2.840.10008.5.1.4.1.1.66.": "segmentation",
    "1.2.840.10008.5.1.4.1.1.1": "film",
}
SCOUT_WORDS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
SCREEN_WORDS = ("SCREEN", "DOSE", "SAVE")
ORTHOGONAL_COSINE = 0.5  # normals further apart than 60 degrees belong to a scout, not to a tilted stack
SAME_DIRECTION_COSINE = 0.999
SCOUTS_AT_MOST = 3  # of one direction; more are a reformat in the wrong series
REFORMAT_WORDS = {"REFORMATTED", "MPR", "MPVR", "CPR", "MIP", "MINIP", "VRT"}
AXIAL_COSINE = 0.8  # a gantry tilts by 30 degrees at most, whose cosine is 0.87


@dataclass(frozen=True, kw_only=True)
class SeriesVerdict:
    """`kind` and `reason` (None: usable) of a series; `dropped` names files that leave it, each with its reason."""

    kind: str
    reason: str | None
    dropped: dict[str, str] = field(default_factory=dict)


def _capture_kind(header: InstanceHeader) -> str | None:
    """`dose_report`, `secondary_capture`, a kind of `KIND_BY_CLASS` or `other` for what is no acquired CT image, else None."""
    described = header.series_description.upper()
    typed = " ".join(header.image_type).upper()
    if header.sop_class_uid in DOSE_CLASSES:
        return "dose_report"
    if header.sop_class_uid.startswith(SECONDARY_CAPTURE):
        return "dose_report" if "DOSE" in typed or "DOSE" in described else "secondary_capture"
    if header.sop_class_uid not in CT_CLASSES:
        return _kind_by_class(header.sop_class_uid)
    if any(word in typed for word in SCREEN_WORDS) and "SECONDARY" in typed:
        return "dose_report" if "DOSE" in typed or "DOSE" in described else "secondary_capture"
    return None


def _kind_by_class(uid: str) -> str:
    """`film` needs a class of its own or a dot after it: 1.1.128 (PET) starts with 1.1.1 as well."""
    fits = (kind for start, kind in KIND_BY_CLASS.items() if uid == start or uid.startswith(f"{start.rstrip('.')}."))
    return next(fits, "other")


def _is_scout(header: InstanceHeader) -> bool:
    return any(word in SCOUT_WORDS for value in header.image_type for word in value.upper().replace("_", " ").split())


def _is_reformat(header: InstanceHeader) -> bool:
    """Computed from a volume, not acquired: said by the image type, or by a plane that no chest is acquired in."""
    words = {word for value in header.image_type for word in value.upper().replace("_", " ").split()}
    normal = plane_normal(header)
    return bool("DERIVED" in words and words & REFORMAT_WORDS) or (normal is not None and abs(normal[2]) < AXIAL_COSINE)


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return abs(sum(a * b for a, b in zip(first, second, strict=True)))


def _orthogonal_minority(headers: Sequence[InstanceHeader]) -> dict[str, str]:
    """Files whose plane lies across that of most others: a scout without its name."""
    directions: list[tuple[float, float, float]] = []
    member: dict[str, int] = {}
    for header in headers:
        normal = plane_normal(header)
        if normal is None:
            continue
        near = (index for index, known in enumerate(directions) if _cosine(normal, known) > SAME_DIRECTION_COSINE)
        index = next(near, len(directions))
        if index == len(directions):
            directions.append(normal)
        member[header.file] = index
    counts = Counter(member.values())
    if len(counts) < 2:
        return {}
    (main, most), (_, second) = counts.most_common(2)
    if second * 2 > most:
        return {}
    return {
        file: "localizer"
        for file, index in member.items()
        if _cosine(directions[index], directions[main]) < ORTHOGONAL_COSINE and counts[index] <= SCOUTS_AT_MOST
    }


def _capture_reason(kind: str) -> str:
    return kind if kind in ("dose_report", "secondary_capture") else "not_a_ct_image"


def _letters(text: str) -> str:
    return "".join(character for character in text.upper() if character.isalpha())


def _volume_reason(headers: Sequence[InstanceHeader], non_chest_body_parts: Collection[str]) -> str | None:
    if any(header.pixels != "complete" for header in headers):
        return "truncated"
    if {_letters(header.body_part) for header in headers} & set(non_chest_body_parts):
        return "not_chest"
    classic = [header for header in headers if header.sop_class_uid not in ENHANCED_CLASSES]
    if any(header.position is None or header.orientation is None for header in classic):
        return "missing_geometry"
    return None


def classify_series(headers: Sequence[InstanceHeader], *, non_chest_body_parts: Collection[str]) -> SeriesVerdict:
    """Tell a volume from scouts, dose reports, captures, reformats, single slices and non-images.

    Scouts and captures among the slices of a volume are dropped from it one by one; a truncated slice, a body part
    other than the chest, or slices without position refuse the whole series.
    """
    captures = {header.file: kind for header in headers if (kind := _capture_kind(header)) is not None}
    if len(captures) == len(headers):
        kind = Counter(captures.values()).most_common(1)[0][0]
        return SeriesVerdict(kind=kind, reason=_capture_reason(kind))
    images = [header for header in headers if header.file not in captures]
    scouts = {header.file: "localizer" for header in images if _is_scout(header)}
    slices = [header for header in images if header.file not in scouts]
    scouts |= _orthogonal_minority(slices)
    slices = [header for header in images if header.file not in scouts]
    if not slices:
        return SeriesVerdict(kind="localizer", reason="localizer")
    dropped = scouts | {file: _capture_reason(kind) for file, kind in captures.items()}
    if all(_is_reformat(header) for header in slices):
        return SeriesVerdict(kind="reformat", reason="reformat", dropped=dropped)
    if len(slices) == 1 and slices[0].num_frames == 1:
        return SeriesVerdict(kind="one_slice", reason="one_slice", dropped=dropped)
    return SeriesVerdict(kind="volume", reason=_volume_reason(slices, non_chest_body_parts), dropped=dropped)
