"""Split a series that is really several: what shares a Series Instance UID but makes no single stack.

Source: DICOM PS3.3 C.7.3.1 asks for one series per acquisition and reconstruction; archives hold others. Kernel, matrix,
pixel spacing and orientation split always. Acquisition number, temporal position, slice thickness and image type split
only where their slices lie among each other: step-and-shoot scanners count an acquisition per table position, and such
a stack is one.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

from glint.formats.dicom import InstanceHeader

SAME_COSINE = 1e-3  # as the geometry gate of stage 03
SAME_SPACING_MM = 1e-4
SAME_POSITION_MM = 1e-3
Slices = Sequence[InstanceHeader]


def split_series(slices: Slices) -> dict[str, list[InstanceHeader]]:
    """Part key → its slices, in the order given; one part with the key "" where the series is one.

    A key says what sets the part apart (`kernel=B30f`); it depends on the set of slices, not on their order.
    """
    parts: dict[tuple[str, ...], list[InstanceHeader]] = {(): list(slices)}
    for name, divide in (*_ALWAYS, *_WHERE_MIXED):
        finer = {}
        for key, whole in parts.items():
            divided = divide(whole)
            for value, members in divided.items():
                finer[(*key, f"{name}={value}") if len(divided) > 1 else key] = members
        parts = finer
    return {";".join(key): members for key, members in sorted(parts.items())}


def repeated_positions(slices: Slices) -> list[list[InstanceHeader]]:
    """Groups of slices that lie at one place of one stack."""
    places: dict[Hashable, list[InstanceHeader]] = defaultdict(list)
    for header in slices:
        if header.position is not None and header.num_frames == 1:
            places[tuple(round(value / SAME_POSITION_MM) for value in header.position)].append(header)
    return [group for group in places.values() if len(group) > 1]


def plane_normal(header: InstanceHeader) -> tuple[float, float, float] | None:
    """The slice normal (x, y, z) LPS, None without orientation."""
    if header.orientation is None:
        return None
    rx, ry, rz, cx, cy, cz = header.orientation
    return (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)


Divided = dict[str, list[InstanceHeader]]


def _by_value(value: Callable[[InstanceHeader], object]) -> Callable[[Slices], Divided]:
    def divide(slices: Slices) -> Divided:
        divided: Divided = defaultdict(list)
        for header in slices:
            divided[str(value(header))].append(header)
        return divided

    return divide


def _by_numbers(
    numbers: Callable[[InstanceHeader], tuple[float, ...] | None], tolerance: float
) -> Callable[[Slices], Divided]:
    """By closeness to the first of the sorted values that is no further than `tolerance` in any number."""

    def divide(slices: Slices) -> Divided:
        leaders: list[tuple[float, ...]] = []
        leader_of: dict[tuple[float, ...], str] = {}
        for values in sorted({found for header in slices if (found := numbers(header)) is not None}):
            near = (
                known for known in leaders if max(abs(a - b) for a, b in zip(values, known, strict=True)) <= tolerance
            )
            leader = next(near, values)
            if leader is values:
                leaders.append(values)
            leader_of[values] = "\\".join(f"{value + 0.0:.4f}" for value in leader)
        return _by_value(lambda header: leader_of.get(numbers(header) or (), ""))(slices)

    return divide


def _extent_mm(slices: Slices) -> tuple[float, float] | None:
    """First and last place along the normal of the first slice; None where any is unknown."""
    normal = plane_normal(slices[0])
    if normal is None:
        return None
    places = []
    for header in slices:
        if header.position is None:
            return None
        places.append(sum(a * b for a, b in zip(normal, header.position, strict=True)))
    return min(places), max(places)


def _where_mixed(value: Callable[[InstanceHeader], object]) -> Callable[[Slices], Divided]:
    """By value, unless the values follow each other along the stack or a place is unknown."""

    def divide(slices: Slices) -> Divided:
        divided = _by_value(value)(slices)
        extents = [_extent_mm(members) for members in divided.values()]
        known = sorted(extent for extent in extents if extent is not None)
        apart = all(first[1] < second[0] - SAME_POSITION_MM for first, second in pairwise(known))
        return {"": list(slices)} if apart or len(known) < len(extents) else divided

    return divide


def _passes(slices: Slices) -> Divided:
    """The first, second, … image of every place, by time: repeated passes over the same places, one after another."""
    repeats = repeated_positions(slices)
    counts = {len(group) for group in repeats}
    if len(counts) != 1 or len(slices) != sum(len(group) for group in repeats):
        return {"": list(slices)}
    ordered = [sorted(group, key=lambda header: header.acquisition_time) for group in repeats]
    passes = [list(members) for members in zip(*ordered, strict=True)]
    ends = [(min(times), max(times)) for members in passes for times in [[one.acquisition_time for one in members]]]
    if not ends[0][0] or any(first[1] >= second[0] for first, second in pairwise(ends)):
        return {"": list(slices)}
    places = {header.file: number for number, members in enumerate(passes, 1) for header in members}
    return _by_value(lambda header: places[header.file])(slices)


_ALWAYS = (
    ("class", _by_value(lambda header: header.sop_class_uid)),
    ("kernel", _by_value(lambda header: header.kernel)),
    ("size", _by_value(lambda header: f"{header.rows}x{header.columns}")),
    ("spacing", _by_numbers(lambda header: header.pixel_spacing, SAME_SPACING_MM)),
    ("orientation", _by_numbers(lambda header: header.orientation, SAME_COSINE)),
)
_WHERE_MIXED = (
    ("temporal", _where_mixed(lambda header: header.temporal_position)),
    ("acquisition", _where_mixed(lambda header: header.acquisition_number)),
    ("thickness", _where_mixed(lambda header: header.slice_thickness)),
    ("type", _where_mixed(lambda header: "\\".join(header.image_type))),
    ("pass", _passes),
)
