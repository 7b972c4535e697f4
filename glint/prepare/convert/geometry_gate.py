"""The gate before conversion: which slices make one regular, upright volume, or one that a repair makes regular.

Headers decide, before any converter runs: converters accept missing slices, tilt and mixed reconstructions with
exit code 0 and an invented spacing. Every refusal is a `Quarantine` whose reason is one of `REASONS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.core.config.convert import ConvertConfig
from glint.core.errors import GeometryError, Quarantine
from glint.core.geometry import SliceSteps, order_along_normal, slice_normal, slice_steps, stack_affine
from glint.formats.dicom_series import SliceHeader, lps_to_ras

REASONS = {
    "one_slice": "the series has one slice",
    "mixed_patients": "slices belong to different patients",
    "mixed_series": "slices belong to different studies, series or frames of reference",
    "multi_frame": "a file holds several frames without a position for each",
    "not_grayscale": "the pixels are coloured",
    "missing_geometry": "position, orientation, pixel spacing or size is absent or unusable",
    "mixed_size": "slices differ in rows or columns",
    "mixed_spacing": "slices differ in pixel spacing",
    "mixed_orientation": "slices differ in orientation",
    "rescale_absent": "rescale slope or intercept is absent",
    "not_hounsfield": "the rescale type is not HU",
    "not_axial": "the slices are no sections along an accepted plane of the body (convert.ct.planes)",
    "not_a_volume": "all slices lie at one position",
    "duplicate_position": "two slices lie at one position",
    "gantry_tilt": "the gantry was tilted, the slices are stacked at a slant (convert.ct.repair_tilt can undo it)",
    "missing_slice": "a gap is too wide, slices were lost: send the series again",
    "variable_spacing": "the gaps between slices differ (convert.ct.repair_variable_spacing can even them)",
    "shifted_slices": "slices are shifted against each other within their plane",
    "too_few_slices": "the series is a fragment",
}
SAME_DIRECTION = 1e-3  # largest difference of a direction cosine: 0.06 degrees, well above rounding to 4 decimals
SAME_SPACING_MM = 1e-4
SAME_POSITION_MM = 1e-3
SHIFT_TOLERANCE = 0.25  # pixels
LONG_GAPS_AT_MOST = 1 / 3  # of all gaps; more wide ones are another spacing, not missing slices
HOUNSFIELD_TYPES = ("HU", "US", "UNSPECIFIED")  # PS3.3 C.11.1.1.2: US is unspecified


MAX_REPAIRED_TILT_DEGREES = 35.0  # gantries tilt by 30 at most; more is no gantry
UPRIGHT, EVEN = "sheared_upright", "resampled_to_even_slices"
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the LPS axis that the normal runs along


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices in order along their normal, and the affine (index x, y, z → RAS mm) of the volume that they make.

    Where `repairs` names any (`UPRIGHT`, `EVEN`), the stack is no volume before them: its affine holds the mean step,
    `positions_mm_N3` (LPS) where each slice truly lies.
    """

    headers: tuple[SliceHeader, ...]
    affine: NDArray[np.float64]
    positions_mm_N3: NDArray[np.float64]
    repairs: tuple[str, ...] = ()


def _refuse(reason: str, detail: str = "") -> Quarantine:
    return Quarantine(reason, f"{REASONS[reason]}: {detail}" if detail else REASONS[reason])


def _require_geometry(headers: Sequence[SliceHeader]) -> None:
    if len(headers) == 1 and headers[0].frames == 1:
        raise _refuse("one_slice")
    frames = max(header.frames if header.frame is None else 1 for header in headers)
    if frames > 1:
        raise _refuse("multi_frame", f"{frames}")
    if any(header.samples != 1 for header in headers):
        raise _refuse("not_grayscale")
    for name in ("position_mm", "orientation", "spacing_mm_yx"):
        absent = sum(getattr(header, name) is None for header in headers)
        if absent:
            raise _refuse("missing_geometry", f"no {name.removesuffix('_yx')} in {absent} of {len(headers)} slices")
    if any(header.rows < 2 or header.columns < 2 for header in headers):
        raise _refuse("missing_geometry", "rows or columns below 2")


def _require_one_series(headers: Sequence[SliceHeader]) -> None:
    if len({header.patient for header in headers}) > 1:
        raise _refuse("mixed_patients")
    for name in ("study", "series", "frame_of_reference"):
        if len({getattr(header, name) for header in headers}) > 1:
            raise _refuse("mixed_series", f"they differ in {name.replace('_', ' ')}")


def _require_one_kind(headers: Sequence[SliceHeader]) -> None:
    sizes = {(header.rows, header.columns) for header in headers}
    if len(sizes) > 1:
        raise _refuse("mixed_size", f"{len(sizes)} sizes")
    for name, tolerance, reason in (
        ("orientation", SAME_DIRECTION, "mixed_orientation"),
        ("spacing_mm_yx", SAME_SPACING_MM, "mixed_spacing"),
    ):
        values = np.array([getattr(header, name) for header in headers])
        largest = float(np.ptp(values, axis=0).max())
        if largest > tolerance:
            raise _refuse(reason, f"they differ by up to {largest:.4g}")


def _require_hounsfield(headers: Sequence[SliceHeader]) -> None:
    absent = sum(header.slope is None or header.intercept is None for header in headers)
    if absent:
        raise _refuse("rescale_absent", f"in {absent} of {len(headers)} slices")
    if any(header.rescale_type not in HOUNSFIELD_TYPES for header in headers):
        raise _refuse("not_hounsfield")


def _accepted_normal(header: SliceHeader, config: ConvertConfig) -> NDArray[np.float64]:
    try:
        normal = slice_normal(np.array(header.orientation))
    except GeometryError as error:
        raise _refuse("missing_geometry", str(error)) from None
    cosine = max(abs(float(normal[PLANES[plane]])) for plane in config.planes)
    degrees = float(np.degrees(np.arccos(min(1.0, cosine))))
    if degrees > config.max_oblique_degrees:
        raise _refuse("not_axial", f"{degrees:.0f} degrees off, {config.max_oblique_degrees:g} allowed")
    return normal


def _require_regular(steps: SliceSteps, config: ConvertConfig) -> None:
    """Equal gaps: |gap - median| ≤ 0.01 · median + 0.005 mm by default, and no more than a tenth of a slice in sum."""
    median_mm = float(np.median(steps.gaps_mm))
    tolerance_mm = config.spacing_tolerance * median_mm + config.spacing_tolerance_mm
    long = steps.gaps_mm > config.missing_gap * median_mm
    uneven = np.abs(steps.gaps_mm - median_mm) > tolerance_mm
    spread = f"gaps of {steps.gaps_mm.min():.3f} to {steps.gaps_mm.max():.3f} mm, median {median_mm:.3f} mm"
    if long.any() and not (uneven & ~long).any() and long.mean() <= LONG_GAPS_AT_MOST:
        raise _refuse("missing_slice", f"{spread}; {int(long.sum())} above {config.missing_gap:g} times the median")
    if uneven.any():
        raise _refuse("variable_spacing", spread)
    if steps.largest_drift_mm > config.drift_tolerance * median_mm:
        raise _refuse("variable_spacing", f"{spread}; small differences add up to {steps.largest_drift_mm:.3f} mm")


def _needed_repairs(steps: SliceSteps, config: ConvertConfig) -> tuple[str, ...]:
    """Repairs that make the stack a regular volume; none for most.

    Raises:
        Quarantine: a repair is needed that the configuration does not allow, or that none can do.
    """
    repairs = []
    if steps.tilt_degrees > config.max_tilt_degrees:
        if not config.repair_tilt or steps.tilt_degrees > MAX_REPAIRED_TILT_DEGREES:
            raise _refuse("gantry_tilt", f"{steps.tilt_degrees:.1f} degrees")
        repairs.append(UPRIGHT)
    try:
        _require_regular(steps, config)
    except Quarantine as refusal:
        widest_mm = float(steps.gaps_mm.max())
        can_even = config.repair_variable_spacing and widest_mm <= config.max_evened_gap_mm
        if refusal.reason != "variable_spacing" or not can_even:
            raise
        repairs.append(EVEN)
    return tuple(repairs)


def pass_gate(headers: Sequence[SliceHeader], config: ConvertConfig) -> Stack:
    """Slices of one series, in any order, as a regular volume, or with the repairs that make it one.

    Raises:
        Quarantine: with one of `REASONS`; the first that holds, from what is absent, through what is mixed, to what
            is irregular. Tilt is told before uneven gaps: it is the rarer and the more harmful.
    """
    _require_geometry(headers)
    _require_one_series(headers)
    _require_one_kind(headers)
    _require_hounsfield(headers)
    normal = _accepted_normal(headers[0], config)
    order, distances_mm = order_along_normal([header.position_mm or () for header in headers], normal)
    if distances_mm[-1] - distances_mm[0] < SAME_POSITION_MM:
        raise _refuse("not_a_volume", f"{len(headers)} slices")
    repeated = int((np.diff(distances_mm) < SAME_POSITION_MM).sum())
    if repeated:
        raise _refuse("duplicate_position", f"{repeated} of {len(headers)} slices repeat another's")
    ordered = tuple(headers[index] for index in order)
    positions = np.array([header.position_mm for header in ordered])
    steps = slice_steps(positions, normal)
    spacing_mm_yx = ordered[0].spacing_mm_yx or (0.0, 0.0)
    repairs = _needed_repairs(steps, config)
    if steps.largest_shift_mm > SHIFT_TOLERANCE * min(spacing_mm_yx):
        raise _refuse("shifted_slices", f"by up to {steps.largest_shift_mm:.2f} mm")
    if len(ordered) < config.min_slices:
        raise _refuse("too_few_slices", f"{len(ordered)} slices, at least {config.min_slices} wanted")
    affine = stack_affine(positions, np.array(ordered[0].orientation), (spacing_mm_yx[0], spacing_mm_yx[1]))
    return Stack(headers=ordered, affine=lps_to_ras(affine), positions_mm_N3=positions, repairs=repairs)
