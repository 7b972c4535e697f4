"""Pictures a radiologist can read: three planes, the map on the scan, the truth outlined.

Head up; the patient's right is on the left of axial and coronal pictures; sagittal pictures look to the left. Planes pass through the largest cross-section of the truth.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.geometry import reorient, spacing_mm_zyx
from glint.evaluation.cohort import Study
from glint.evaluation.figures import label
from glint.evaluation.maps import linear_weights, upsample_logits
from glint.evaluation.measure import Cases, inside

LUNG_WINDOW_HU = (-1350.0, 150.0)
TRUTH_RGB, MASK_RGB = (0.0, 0.9, 1.0), (0.0, 0.0, 0.0)
SCALE_MM, PIXELS_PER_MM, DPI = 50, 0.9, 100
FILM_ROWS = 340
HEAD, GAP = 34, 8  # pixels above a panel and between panels
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F"), "sagittal": ("A", "P", "H", "F")}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One study for the eye, axes along superior, anterior, right: values, probability per arm, truth, voxel edges in mm.

    `window` is shown black to white. A film has one slice along the second axis, and the pixel for a unit.
    """

    volume_ZYX: NDArray[np.integer[Any]]
    probability_ZYX: dict[str, NDArray[np.float32]]
    truth_ZYX: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float] = LUNG_WINDOW_HU

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes that show more than a line."""
        flat = [axis for axis, size in enumerate(self.volume_ZYX.shape) if size == 1]
        return tuple(plane for plane, axis in PLANES.items() if flat in ([], [axis]))

    def centre(self) -> tuple[int, int, int]:
        """Slice of each axis (z, y, x) with most truth voxels."""
        counts = [self.truth_ZYX.sum(axis=other) for other in ((1, 2), (0, 2), (0, 1))]
        return int(np.argmax(counts[0])), int(np.argmax(counts[1])), int(np.argmax(counts[2]))


def plane_view(array_ZYX: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """A plane as it is shown, rows downwards. Axes of the array run to superior, anterior, right, so all are turned round."""
    return np.asarray(np.take(array_ZYX, index, axis=PLANES[plane])[::-1, ::-1])


def make_picture(study: Study, row: int, answers: Mapping[str, Any], column: int, config: EvaluateConfig) -> Picture:
    """Read one study and raise every arm's map of finding `row` to its voxels."""
    volume, affine = study.volume()
    truth = (study.bits() >> row & 1).astype(np.bool_)
    turned, turned_affine = reorient(volume, affine)
    probability = {}
    for arm, given in answers.items():
        logits = upsample_logits(given.logits_FBP[row : row + 1, column], given.grid, volume.shape)[0]
        held = np.zeros_like(logits)  # nothing is said of padding
        scan = inside(study.valid_box)
        held[scan] = 1 / (1 + np.exp(-(logits[scan] + config.mask_offset)))
        turned_map, _ = reorient(held, affine)
        probability[arm] = np.asarray(turned_map, dtype=np.float32)
    return Picture(
        volume_ZYX=np.asarray(turned),
        probability_ZYX=probability,
        truth_ZYX=np.asarray(reorient(truth, affine)[0], dtype=np.bool_),
        spacing_mm=spacing_mm_zyx(turned_affine),
        window=config.overlay_window,
    )


def _enlarged(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Linear interpolation of a plane to `shape` pixels."""
    rows, columns = (linear_weights(n, m) for n, m in zip(plane.shape, shape, strict=True))
    return np.asarray(rows @ plane.astype(np.float32) @ columns.T)


def _outline(mask_YX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost two pixels of a mask."""
    from scipy.ndimage import binary_erosion

    return np.asarray(mask_YX & ~binary_erosion(mask_YX, iterations=2, border_value=1))


def paint_plane(picture: Picture, arm: str, plane: str) -> NDArray[np.float32]:
    """(rows, columns, 3) in [0, 1]: the scan, the map on it, the truth's outline, and dashed the map's at one half."""
    index = picture.centre()[PLANES[plane]]
    shape = _pixels(picture, plane)
    low, high = picture.window
    gray = (_enlarged(plane_view(picture.volume_ZYX, plane, index), shape) - low) / (high - low)
    heat = _enlarged(plane_view(picture.probability_ZYX[arm], plane, index), shape)
    truth = _enlarged(plane_view(picture.truth_ZYX, plane, index), shape) > 0.5
    # A map that is nowhere sure would not show: its colours are stretched to its own highest value, which is printed.
    shown = heat / max(1e-6, highest) if (highest := float(picture.probability_ZYX[arm].max())) < 0.5 else heat
    alpha = 0.75 * np.clip(shown, 0, 1)[..., None] ** 0.8
    colour = np.stack([np.full_like(heat, 0.95), 0.75 * shown, np.full_like(heat, 0.1)], axis=-1)
    painted = (1 - alpha) * np.clip(gray, 0, 1)[..., None] + alpha * colour
    dashes = np.add(*np.indices(shape)) // 5 % 2 == 0
    painted[_outline(heat > 0.5) & dashes] = MASK_RGB
    painted[_outline(truth)] = TRUTH_RGB
    return np.asarray(painted, dtype=np.float32)


def _pixels(picture: Picture, plane: str) -> tuple[int, int]:
    """Rows and columns of a painted plane: true proportions, whatever the voxels are."""
    kept = [axis for axis in range(3) if axis != PLANES[plane]]
    rows, columns = (round(picture.volume_ZYX.shape[k] * picture.spacing_mm[k] * _scale(picture)) for k in kept)
    return rows, columns


def _scale(picture: Picture) -> float:
    """Painted pixels per unit: a film is painted as high as a chest is."""
    return PIXELS_PER_MM if len(picture.planes) > 1 else FILM_ROWS / max(picture.volume_ZYX.shape)


def highest_pixel(picture: Picture, arm: str, plane: str) -> tuple[float, float]:
    """Row and column, in pixels of the painted plane, of the map's highest voxel projected onto it."""
    heat = picture.probability_ZYX[arm]
    place = np.unravel_index(int(np.argmax(heat)), heat.shape)
    kept = [axis for axis in range(3) if axis != PLANES[plane]]
    scale = [picture.spacing_mm[axis] * _scale(picture) for axis in kept]
    row, column = ((heat.shape[axis] - 0.5 - place[axis]) * s for axis, s in zip(kept, scale, strict=True))
    return float(row), float(column)


def _annotate(axes: Any, plane: str, top: int, left: int, shape: tuple[int, int], *, bar_mm: bool) -> None:
    """Letters of the four directions and, where millimetres are known, a bar of true length."""
    rows, columns = shape
    style = {"color": "white", "fontsize": 8, "weight": "bold"}
    names = EDGES[plane]
    axes.text(left + 4, top + rows / 2, names[0], ha="left", va="center", **style)
    axes.text(left + columns - 4, top + rows / 2, names[1], ha="right", va="center", **style)
    axes.text(left + columns / 2, top + 4, names[2], ha="center", va="top", **style)
    axes.text(left + columns / 2, top + rows - 4, names[3], ha="center", va="bottom", **style)
    if not bar_mm:
        return
    bar = left + np.array([6.0, 6.0 + SCALE_MM * PIXELS_PER_MM])
    axes.plot(bar, [top + rows - 6.0] * 2, color="white", linewidth=2, solid_capstyle="butt")
    axes.text(bar[0], top + rows - 9, f"{SCALE_MM} mm", color="white", fontsize=6, va="bottom")


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
    answers = {arm: cases.arms[arm].answers for arm in (first, *others)}
    pictures = [make_picture(studies[column], row, answers, column, config) for _, column in chosen]
    planes = pictures[0].planes
    views = [(first, plane) for plane in planes] + [(arm, "coronal") for arm in others]
    panels = [[paint_plane(picture, arm, plane) for arm, plane in views] for picture in pictures]
    lefts = np.cumsum([0, *(panel.shape[1] + GAP for panel in panels[0])])
    tops = np.cumsum([HEAD, *(max(panel.shape[0] for panel in line) + HEAD for line in panels)])
    canvas = np.ones((tops[-1] - HEAD + GAP, lefts[-1] - GAP, 3), np.float32)
    axes = _canvas_axes(canvas.shape)
    for (name, column), picture, line, top in zip(chosen, pictures, panels, tops, strict=False):
        for (arm, plane), panel, left in zip(views, line, lefts, strict=False):
            rows, columns = panel.shape[:2]
            canvas[top : top + rows, left : left + columns] = panel
            _annotate(axes, plane, top, left, (rows, columns), bar_mm=len(planes) > 1)
            down, across = highest_pixel(picture, arm, plane)
            axes.plot(left + across, top + down, "+", color="white", markersize=10, markeredgewidth=2.6)
            axes.plot(left + across, top + down, "+", color="black", markersize=8, markeredgewidth=1.0)
            highest = float(picture.probability_ZYX[arm].max())
            score = f"{_score(cases, arm, row, column)}, highest {highest:.2f}"
            head = f"{name} case, {label(arm)}" if arm == first else label(arm)
            named = f"{plane}: {score}" if len(planes) > 1 else score
            head = plane if arm == first and plane != planes[0] else f"{head}\n{named}"
            axes.text(left, top - 6, head, fontsize=7.5, va="bottom")
    axes.imshow(canvas, interpolation="nearest", zorder=0)
    return few_colours(axes.figure)


def _score(cases: Cases, arm: str, row: int, column: int) -> str:
    measured = cases.arms[arm]
    if np.isnan(measured.dice_FB[row, column]):
        return "not asked"
    return f"Dice {measured.dice_FB[row, column]:.2f}, {'hit' if measured.pointing_FB[row, column] == 1 else 'miss'}"


def few_colours(figure: Any) -> bytes:
    """The figure as PNG of 256 colours: a third of the size, and no difference to the eye."""
    from PIL import Image

    figure.canvas.draw()
    pixels = np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    content = io.BytesIO()
    Image.fromarray(pixels).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        content, "PNG"
    )
    return content.getvalue()


def _canvas_axes(shape: tuple[int, ...]) -> Any:
    """Axes that fill a figure of `shape` pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(shape[1] / DPI, shape[0] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    return axes
