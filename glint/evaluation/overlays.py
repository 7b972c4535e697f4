"""Pictures a radiologist can read: three planes, the map on the scan, the truth outlined.

Head up; the patient's right is on the left of the picture in axial and coronal planes; sagittal planes look to the left of
the picture. Planes pass through the largest cross-section of the truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.geometry import reorient, spacing_mm_zyx
from glint.evaluation.cohort import Study
from glint.evaluation.figures import label, new_figure, png_bytes, words
from glint.evaluation.maps import upsample_logits
from glint.evaluation.measure import Cases

LUNG_WINDOW_HU = (-1350.0, 150.0)
TRUTH_COLOUR, MASK_COLOUR = "#00e5ff", "#ffe600"
SCALE_MM = 50
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F"), "sagittal": ("A", "P", "H", "F")}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One study for the eye, axes along superior, anterior, right: HU, probability per arm, truth, voxel edges in mm."""

    volume_ZYX: NDArray[np.int16]
    probability_ZYX: dict[str, NDArray[np.float32]]
    truth_ZYX: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]

    def centre(self) -> tuple[int, int, int]:
        """Slice of each axis (z, y, x) with most truth voxels."""
        counts = [self.truth_ZYX.sum(axis=other) for other in ((1, 2), (0, 2), (0, 1))]
        return int(np.argmax(counts[0])), int(np.argmax(counts[1])), int(np.argmax(counts[2]))


def plane_view(array_ZYX: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """A plane as it is shown, rows downwards. Axes of the array run to superior, anterior, right, so all are turned round."""
    return np.take(array_ZYX, index, axis=PLANES[plane])[::-1, ::-1]


def make_picture(study: Study, row: int, answers: Mapping[str, Any], column: int, offset: float) -> Picture:
    """Read one study and raise every arm's map of finding `row` to its voxels."""
    volume, affine = study.volume()
    truth = (study.bits() >> row & 1).astype(np.bool_)
    turned, turned_affine = reorient(volume, affine)
    probability = {}
    for arm, given in answers.items():
        logits = upsample_logits(given.logits_FBP[row : row + 1, column], given.grid, volume.shape)[0]
        turned_map, _ = reorient(1 / (1 + np.exp(-(logits + offset))), affine)
        probability[arm] = np.asarray(turned_map, dtype=np.float32)
    return Picture(
        volume_ZYX=np.asarray(turned, dtype=np.int16),
        probability_ZYX=probability,
        truth_ZYX=np.asarray(reorient(truth, affine)[0], dtype=np.bool_),
        spacing_mm=spacing_mm_zyx(turned_affine),
    )


def show_plane(axes: Any, picture: Picture, arm: str, plane: str) -> None:
    """Scan, map (opaque where it is sure), the map's outline at 0.5, the truth's outline, the map's highest point."""
    axis = PLANES[plane]
    index = picture.centre()[axis]
    heat = picture.probability_ZYX[arm]
    rows_mm, columns_mm = (mm for place, mm in enumerate(picture.spacing_mm) if place != axis)
    image = plane_view(picture.volume_ZYX, plane, index)
    shown, truth = plane_view(heat, plane, index), plane_view(picture.truth_ZYX, plane, index)
    axes.imshow(image, cmap="gray", vmin=LUNG_WINDOW_HU[0], vmax=LUNG_WINDOW_HU[1], interpolation="bilinear")
    axes.imshow(shown, cmap="autumn", vmin=0, vmax=1, alpha=np.clip(0.65 * shown, 0, 1), interpolation="bilinear")
    axes.set_aspect(rows_mm / columns_mm)
    if truth.any():
        axes.contour(truth, levels=[0.5], colors=[TRUTH_COLOUR], linewidths=1.2)
    if shown.min() <= 0.5 < shown.max():
        axes.contour(shown, levels=[0.5], colors=[MASK_COLOUR], linewidths=0.9, linestyles="dashed")
    highest = np.array(np.unravel_index(int(np.argmax(heat)), heat.shape))
    down, across = (size - 1 - place for size, place in zip(image.shape, np.delete(highest, axis), strict=True))
    axes.plot(across, down, marker="+", color="white", markersize=9, markeredgewidth=1.4)
    _annotate(axes, plane, image.shape, SCALE_MM / columns_mm)


def _annotate(axes: Any, plane: str, shape: tuple[int, ...], scale_pixels: float) -> None:
    left, right, top, bottom = EDGES[plane]
    style = {"color": "white", "fontsize": 8, "weight": "bold", "transform": axes.transAxes}
    axes.text(0.02, 0.5, left, ha="left", va="center", **style)
    axes.text(0.98, 0.5, right, ha="right", va="center", **style)
    axes.text(0.5, 0.98, top, ha="center", va="top", **style)
    axes.text(0.5, 0.02, bottom, ha="center", va="bottom", **style)
    y = shape[0] - 3.0
    axes.plot([2, 2 + scale_pixels], [y, y], color="white", linewidth=2)
    axes.text(2, y - 1.5, f"{SCALE_MM} mm", color="white", fontsize=6, va="bottom")
    axes.set_axis_off()


def ranked_cases(cases: Cases, arm: str, row: int, num: int) -> list[tuple[str, int]]:
    """Up to `num` (name, column) of positives, evenly from best to worst by the arm's Dice; a hit breaks a tie."""
    measured = cases.arms[arm]
    known = np.flatnonzero(~np.isnan(measured.dice_FB[row]))
    if not known.size or num < 1:
        return []
    quality = measured.dice_FB[row, known] + 1e-3 * measured.pointing_FB[row, known]
    order = known[np.argsort(-quality, kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int))
    names = {0: "best", len(order) - 1: "worst", (len(order) - 1) // 2: "median", len(order) // 2: "median"}
    if len(order) == 1:
        return [("only", int(order[0]))]
    return [({**names, 0: "best", len(order) - 1: "worst"}.get(int(p), f"rank {p + 1}"), int(order[p])) for p in places]


def overlay_figure(
    studies: Sequence[Study],
    cases: Cases,
    findings: Sequence[str],
    row: int,
    others: Sequence[str],
    config: EvaluateConfig,
) -> bytes | None:
    """Cases of one finding in rows; the first arm in three planes, then each other arm in the coronal plane."""
    first = next(iter(cases.arms))
    chosen = ranked_cases(cases, first, row, config.overlay_cases)
    if not chosen:
        return None
    views = [(first, plane) for plane in PLANES] + [(arm, "coronal") for arm in others]
    figure = new_figure(2.35 * len(views), 2.15 * len(chosen) + 0.5)
    panels = figure.subplots(len(chosen), len(views), squeeze=False)
    for line, (name, column) in zip(panels, chosen, strict=True):
        answers = {arm: cases.arms[arm].answers for arm in (first, *others)}
        picture = make_picture(studies[column], row, answers, column, config.mask_offset)
        for axes, (arm, plane) in zip(line, views, strict=True):
            show_plane(axes, picture, arm, plane)
            measured = cases.arms[arm]
            score = f"Dice {measured.dice_FB[row, column]:.2f}, {'hit' if measured.pointing_FB[row, column] == 1 else 'miss'}"
            head = f"{name}: {label(arm)}" if plane == "axial" else (label(arm) if arm != first else plane)
            axes.set_title(f"{head}\n{score if plane == 'axial' or arm != first else ' '}", fontsize=7.5)
    figure.suptitle(words(findings[row]), fontsize=11, weight="bold", x=0.01, ha="left")
    return png_bytes(figure, dpi=90)
