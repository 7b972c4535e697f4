"""What a series is, from its headers alone, and whether it can be a chest volume."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from glint.formats.dicom import InstanceHeader

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
}
ENHANCED_CLASSES = CT_CLASSES - {"1.2.840.10008.5.1.4.1.1.2"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DOSE_CLASSES = {"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.68"}
SCOUT_WORDS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
SCREEN_WORDS = ("SCREEN", "DOSE", "SAVE")
ORTHOGONAL_COSINE = 0.5  # normals further apart than 60 degrees belong to a scout, not to a tilted stack
SAME_DIRECTION_COSINE = 0.999


@dataclass(frozen=True, kw_only=True)
class SeriesVerdict:
    """`kind` and `reason` (None: usable) of a series; `dropped` names files that leave it, each with its reason."""

    kind: str
    reason: str | None
    dropped: dict[str, str] = field(default_factory=dict)


def _capture_kind(header: InstanceHeader) -> str | None:
    """`dose_report`, `secondary_capture` or `other` for what is not an acquired CT image, else None."""
    described = header.series_description.upper()
    typed = " ".join(header.image_type).upper()
    if header.sop_class_uid in DOSE_CLASSES:
        return "dose_report"
    if header.sop_class_uid.startswith(SECONDARY_CAPTURE):
        return "dose_report" if "DOSE" in typed or "DOSE" in described else "secondary_capture"
    if header.sop_class_uid not in CT_CLASSES:
        return "other"
    if any(word in typed for word in SCREEN_WORDS) and "SECONDARY" in typed:
        return "dose_report" if "DOSE" in typed or "DOSE" in described else "secondary_capture"
    return None


def _is_scout(header: InstanceHeader) -> bool:
    return any(word in SCOUT_WORDS for value in header.image_type for word in value.upper().replace("_", " ").split())


def _normal(header: InstanceHeader) -> tuple[float, float, float] | None:
    if header.orientation is None:
        return None
    rx, ry, rz, cx, cy, cz = header.orientation
    return (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return abs(sum(a * b for a, b in zip(first, second, strict=True)))


def _orthogonal_minority(headers: Sequence[InstanceHeader]) -> dict[str, str]:
    """Files whose plane lies across that of most others: a scout without its name."""
    directions: list[tuple[float, float, float]] = []
    member: dict[str, int] = {}
    for header in headers:
        normal = _normal(header)
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
        if _cosine(directions[index], directions[main]) < ORTHOGONAL_COSINE
    }


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
    """Tell a volume from scouts, dose reports, captures, single slices and non-images.

    Scouts and captures among the slices of a volume are dropped from it one by one; a truncated slice, a body part
    other than the chest, or slices without position refuse the whole series.
    """
    captures = {header.file: kind for header in headers if (kind := _capture_kind(header)) is not None}
    if len(captures) == len(headers):
        kind = Counter(captures.values()).most_common(1)[0][0]
        return SeriesVerdict(kind=kind, reason="not_a_ct_image" if kind == "other" else kind)
    images = [header for header in headers if header.file not in captures]
    scouts = {header.file: "localizer" for header in images if _is_scout(header)}
    slices = [header for header in images if header.file not in scouts]
    scouts |= _orthogonal_minority(slices)
    slices = [header for header in images if header.file not in scouts]
    if not slices:
        return SeriesVerdict(kind="localizer", reason="localizer")
    dropped = scouts | {file: "not_a_ct_image" if kind == "other" else kind for file, kind in captures.items()}
    if len(slices) == 1 and slices[0].num_frames == 1:
        return SeriesVerdict(kind="one_slice", reason="one_slice", dropped=dropped)
    return SeriesVerdict(kind="volume", reason=_volume_reason(slices, non_chest_body_parts), dropped=dropped)
