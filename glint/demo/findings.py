"""How each finding looks inside the lungs.

All shapes live on the flat voxel lists of `Lungs`: what a finding claims is its mask, and only free voxels can be
claimed, so that masks of the lung never overlap. Lengths in mm, values in HU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glint.demo.anatomy import LEFT, RIGHT, Floats, Lungs, Mask

REGIONS = ("upper", "middle", "lower")


@dataclass(kw_only=True)
class Canvas:
    """The lungs while findings are painted: hu_N changes, claimed_N grows. upright: fluid sinks to the base, air rises."""

    lungs: Lungs
    hu_N: Floats
    voxel_cm3: float
    upright: bool = False
    claimed_N: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.claimed_N = np.zeros(self.hu_N.shape, np.bool_)

    def claim(self, wanted_N: Mask, hu: Floats | float) -> Mask:
        """Paint the free part of `wanted_N`; returns it."""
        taken = wanted_N & ~self.claimed_N
        self.claimed_N |= taken
        self.hu_N[taken] = hu[taken] if isinstance(hu, np.ndarray) else hu
        return taken


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a painter put its finding: mask_N over the lungs' voxels, region by the lobe, size in mm."""

    mask_N: Mask
    side: int
    region: str | None
    size_mm: float


Painter = Callable[[Canvas, np.random.Generator, int], list[Spot]]


def waves(rng: np.random.Generator, lungs: Lungs, length_mm: float, count: int = 4) -> Floats:
    """A smooth random field of unit variance with features of about half of length_mm."""
    total = np.zeros(lungs.x_N.shape, np.float32)
    for _ in range(count):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / length_mm * rng.uniform(0.7, 1.4) / np.linalg.norm(direction)
        kz, ky, kx = (np.float32(k) for k in direction)
        total += np.cos(kz * lungs.z_N + ky * lungs.y_N + kx * lungs.x_N + np.float32(rng.uniform(0, 2 * np.pi)))
    return total * np.float32(np.sqrt(2 / count))


def _distance(lungs: Lungs, centre: int, stretch: tuple[float, float, float]) -> Floats:
    """Distance in mm from voxel `centre`, axes (z, y, x) divided by stretch."""
    squared = (
        ((lungs.z_N - lungs.z_N[centre]) / stretch[0]) ** 2
        + ((lungs.y_N - lungs.y_N[centre]) / stretch[1]) ** 2
        + ((lungs.x_N - lungs.x_N[centre]) / stretch[2]) ** 2
    )
    return np.asarray(np.sqrt(squared), np.float32)


def _best_centre(canvas: Canvas, rng: np.random.Generator, allowed_N: Mask, radius_mm: float) -> int:
    """Of some random allowed voxels the one around which most free lung of its own side lies."""
    lungs = canvas.lungs
    room = np.flatnonzero(allowed_N)
    candidates = rng.choice(room if room.size else np.arange(lungs.x_N.size), 14)
    half = np.flatnonzero((lungs.side_N == lungs.side_N[candidates[0]]) & ~canvas.claimed_N)[::3]
    z, y, x = lungs.z_N[half], lungs.y_N[half], lungs.x_N[half]

    def around(c: int) -> int:
        squared = (z - lungs.z_N[c]) ** 2 + (y - lungs.y_N[c]) ** 2 + (x - lungs.x_N[c]) ** 2
        return int(np.count_nonzero(squared < radius_mm**2))

    return max((int(candidate) for candidate in candidates), key=around)


def _blob(
    canvas: Canvas, rng: np.random.Generator, side: int, diameter_mm: float, roughness: float, lobe: int
) -> tuple[Mask, Floats, int]:
    """A lumpy ball in one lobe of one side: its mask, its normalised radius and its lobe."""
    lungs = canvas.lungs
    mine = lungs.side_N == side
    centre = _best_centre(canvas, rng, mine & (lungs.lobe_N == lobe) & ~canvas.claimed_N, diameter_mm / 2)
    stretch = tuple(rng.uniform(0.88, 1.14, 3))
    radius = _distance(lungs, centre, (stretch[0], stretch[1], stretch[2])) / (diameter_mm / 2)
    radius = radius * (1 + roughness * waves(rng, lungs, 0.9 * diameter_mm))
    return mine & (radius < 1), radius, lobe


def _pick_lobe(rng: np.random.Generator, upper: float, middle: float) -> int:
    return int(rng.choice(3, p=[upper, middle, 1 - upper - middle]))


def paint_nodule(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """One round solid spot of 22 to 30 mm, sometimes two."""
    spots = []
    for _ in range(1 + int(rng.random() < 0.2)):
        diameter = rng.uniform(22, 30)
        mask, _, lobe = _blob(canvas, rng, side, diameter, 0.05, _pick_lobe(rng, 0.5, 0.15))
        taken = canvas.claim(mask, rng.uniform(10, 55))
        spots.append(Spot(mask_N=taken, side=side, region=REGIONS[lobe], size_mm=diameter))
    return spots


def paint_mass(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """A lobulated solid mass of 42 to 60 mm with spicules, now and then with a cavity."""
    diameter = rng.uniform(44, 60)
    mask, radius, lobe = _blob(canvas, rng, side, diameter, 0.09, _pick_lobe(rng, 0.55, 0.1))
    solid = np.full(radius.shape, rng.uniform(35, 75), np.float32)
    if rng.random() < 0.25:
        solid[radius < rng.uniform(0.3, 0.45)] = -900
    halo = (radius >= 1) & (radius < 1.3) & (canvas.lungs.side_N == side) & (waves(rng, canvas.lungs, 9.0, 6) > 1.2)
    canvas.hu_N[halo & ~canvas.claimed_N] = -250
    return [Spot(mask_N=canvas.claim(mask, solid), side=side, region=REGIONS[lobe], size_mm=diameter)]


def paint_consolidation(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """Airless lung of 60 to 90 mm with black branching bronchi and a fuzzy rim."""
    diameter = rng.uniform(62, 90)
    mask, radius, lobe = _blob(canvas, rng, side, diameter, 0.12, _pick_lobe(rng, 0.35, 0.2))
    hu = 28 + 10 * waves(rng, canvas.lungs, 30.0)
    bronchi = (np.abs(waves(rng, canvas.lungs, 55.0)) < 0.13) & (np.abs(waves(rng, canvas.lungs, 38.0)) < 0.5)
    hu[bronchi] = -600
    hu = np.where(radius > 0.88, -250 + 60 * waves(rng, canvas.lungs, 14.0), hu).astype(np.float32)
    return [Spot(mask_N=canvas.claim(mask, hu), side=side, region=REGIONS[lobe], size_mm=diameter)]


def paint_ground_glass(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """A veil of 60 to 90 mm through which the vessels stay visible."""
    diameter = rng.uniform(64, 92)
    mask, radius, lobe = _blob(canvas, rng, side, diameter, 0.14, _pick_lobe(rng, 0.4, 0.2))
    veil = rng.uniform(-590, -500) + 35 * waves(rng, canvas.lungs, 22.0)
    veil = veil - 140 * np.clip((radius - 0.8) / 0.2, 0, 1)
    hu = np.maximum(veil, canvas.hu_N + 120).astype(np.float32)
    return [Spot(mask_N=canvas.claim(mask, hu), side=side, region=REGIONS[lobe], size_mm=diameter)]


def _fill(canvas: Canvas, side: int, score_N: Floats, volume_cm3: float) -> Mask:
    """The voxels of one side with the highest score, up to a volume but never more than 45 % of the lung."""
    mine = np.flatnonzero(canvas.lungs.side_N == side)
    count = int(min(volume_cm3 / canvas.voxel_cm3, 0.45 * mine.size))
    mask = np.zeros(score_N.shape, np.bool_)
    if count > 0:
        mask[mine[np.argpartition(score_N[mine], mine.size - count)[-count:]]] = True
    return mask


def paint_effusion(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """Fluid that runs to the back and the base, of who stands to the base alone, and rises along the wall as a meniscus."""
    lungs = canvas.lungs
    sinks = rng.uniform(0.3, 0.5)
    meniscus = np.clip(lungs.depth_N - 0.8, 0, 0.2) / 0.2
    score = lungs.y_N - sinks * lungs.z_N + 14 * meniscus
    if canvas.upright:
        score = 0.5 * sinks * lungs.y_N - lungs.z_N + 32 * meniscus**2
    volume = float(rng.choice([rng.uniform(110, 180), rng.uniform(180, 330), rng.uniform(330, 520)]))
    fluid = _fill(canvas, side, score.astype(np.float32), volume)
    taken = canvas.claim(fluid, rng.uniform(4, 18))
    base = taken & (lungs.above_dome_N < 45)
    depth = np.ptp(lungs.y_N[base]) if base.any() else 30.0
    return [Spot(mask_N=taken, side=side, region=None, size_mm=float(depth) * 0.6)]


def paint_pneumothorax(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """Air before and above the lung, around it in who stands, a white pleural line, and denser lung behind it."""
    lungs = canvas.lungs
    tilt, wall = rng.uniform(0.2, 0.45), 16 * np.clip(lungs.depth_N - 0.75, 0, 0.25) / 0.25
    score = (-lungs.y_N + tilt * lungs.z_N + wall).astype(np.float32)
    if canvas.upright:
        score = (0.5 * lungs.z_N + 130 * np.clip(lungs.depth_N - 0.45, 0, 0.55)).astype(np.float32)
    volume = float(rng.choice([rng.uniform(130, 210), rng.uniform(210, 360), rng.uniform(360, 520)]))
    gas = _fill(canvas, side, score, volume)
    edge = float(score[gas].min())
    mine = lungs.side_N == side
    canvas.hu_N[mine & ~gas] += 45
    canvas.hu_N[mine & ~gas & (score > edge - 4.5)] = -420
    taken = canvas.claim(gas, -1000.0)
    return [Spot(mask_N=taken, side=side, region=None, size_mm=float(np.ptp(lungs.y_N[taken])) * 0.5)]


def paint_emphysema(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """A large zone of one lung, mostly its upper part, eaten by black holes of 6 to 15 mm."""
    lungs = canvas.lungs
    mine = lungs.side_N == side
    lower = rng.random() < 0.15
    share = rng.uniform(0.40, 0.62)
    height = np.quantile(lungs.z_N[mine], share if lower else 1 - share)
    zone = mine & ((lungs.z_N < height) if lower else (lungs.z_N > height))
    holes = waves(rng, lungs, 21.0, 6) + 0.5 * waves(rng, lungs, 13.0, 5) > -0.1
    hu = np.where(holes, -985, canvas.hu_N - 85).astype(np.float32)
    taken = canvas.claim(zone, hu)
    region = "lower" if lower else "upper"
    return [Spot(mask_N=taken, side=side, region=region, size_mm=float(np.ptp(lungs.z_N[taken])))]


def _band(canvas: Canvas, rng: np.random.Generator, mine: Mask, thickness_mm: float) -> Mask:
    """A thick band of lung over the lowest free part of one side."""
    lungs = canvas.lungs
    bottom = np.quantile(lungs.above_dome_N[mine], rng.uniform(0.04, 0.16))
    height = lungs.above_dome_N - bottom - 6 * waves(rng, lungs, 150.0, 2)
    low = mine & (height < thickness_mm)
    across = np.abs(lungs.x_N - np.median(lungs.x_N[low]) - rng.uniform(-8, 8)) < rng.uniform(34, 46)
    along = np.abs(lungs.y_N - np.median(lungs.y_N[low])) < rng.uniform(38, 46)
    return np.asarray(low & (height > 0) & across & along)


def _wedge(canvas: Canvas, rng: np.random.Generator, mine: Mask) -> Mask:
    """A lower lobe collapsed against spine and mediastinum: narrow above, wide below."""
    lungs = canvas.lungs
    tip = np.quantile(lungs.z_N[mine], rng.uniform(0.55, 0.66))
    widening = np.clip((tip - lungs.z_N) / 90, 0, 1)
    inner = np.abs(lungs.x_N) - np.quantile(np.abs(lungs.x_N[mine]), 0.03)
    back = np.quantile(lungs.y_N[mine & (lungs.z_N < tip)], 0.45)
    return np.asarray(mine & (inner < 18 + 34 * widening) & (lungs.z_N < tip) & (lungs.y_N > back - 14 * widening))


def paint_atelectasis(canvas: Canvas, rng: np.random.Generator, side: int) -> list[Spot]:
    """Collapsed lung: a thick band above the raised diaphragm, or a wedge of lower lobe beside the spine."""
    lungs = canvas.lungs
    mine = (lungs.side_N == side) & ~canvas.claimed_N
    thickness = rng.uniform(27, 38)
    shapes = [_band(canvas, rng, mine, thickness), _wedge(canvas, rng, mine), _band(canvas, rng, mine, 40.0)]
    roomy = [shape for shape in shapes if shape.sum() * canvas.voxel_cm3 > 60]
    mask = roomy[int(rng.integers(len(roomy)))] if roomy else max(shapes, key=lambda shape: int(shape.sum()))
    taken = canvas.claim(mask, (72 + 5 * waves(rng, lungs, 40.0)).astype(np.float32))
    return [Spot(mask_N=taken, side=side, region="lower", size_mm=thickness)]


PAINTERS: dict[str, tuple[Painter, float]] = {
    "pneumothorax": (paint_pneumothorax, 0.0),
    "pleural_effusion": (paint_effusion, 0.3),
    "mass": (paint_mass, 0.0),
    "atelectasis": (paint_atelectasis, 0.2),
    "consolidation": (paint_consolidation, 0.2),
    "nodule": (paint_nodule, 0.0),
    "ground_glass_opacity": (paint_ground_glass, 0.5),
    "emphysema": (paint_emphysema, 0.75),
}
"""Painter and chance of being bilateral, in the order in which findings claim lung."""


def sides_of(rng: np.random.Generator, chosen: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Draw the sides of each finding: fluid and collapse share a side, fluid and free air don't."""
    sides: dict[str, tuple[int, ...]] = {}
    effusion: tuple[int, ...] | None = None
    for name, (_, bilateral) in PAINTERS.items():
        first = RIGHT if rng.random() < 0.55 else LEFT
        both = rng.random() < bilateral
        if name not in chosen:
            continue
        sides[name] = (first, -first) if both else (first,)
        if name == "pleural_effusion":
            if "pneumothorax" in sides:
                sides[name] = (-sides["pneumothorax"][0],)
            effusion = sides[name]
        if name == "atelectasis" and effusion is not None:
            sides[name] = effusion
    return sides


def lung_vessels(rng: np.random.Generator, lungs: Lungs, shape_zyx: tuple[int, int, int]) -> NDArray[np.float32]:
    """Blood vessels as HU above the parenchyma per lung voxel: branches that fan out from each hilum and thin out."""
    extra = np.zeros(shape_zyx, np.float32)
    present = np.zeros(shape_zyx, np.bool_)
    present.ravel()[lungs.index_N] = True
    flat = np.array(np.unravel_index(lungs.index_N, shape_zyx), np.float32)
    for side in (RIGHT, LEFT):
        mine = np.flatnonzero(lungs.side_N == side)
        middle = np.median(lungs.z_N[mine])
        hilum = mine[np.argmin((lungs.z_N[mine] - middle - 10) ** 2 + lungs.y_N[mine] ** 2 + 2 * lungs.x_N[mine] ** 2)]
        ends = flat[:, rng.choice(mine, 150)]
        starts = np.repeat(flat[:, hilum][:, None], 150, axis=1)
        starts[:, 50:] += (ends[:, 50:] - starts[:, 50:]) * rng.uniform(0.2, 0.6, 100).astype(np.float32)
        starts[:, 50:] += rng.normal(0, 2.0, (3, 100)).astype(np.float32)
        steps = np.linspace(0, 1, 44, dtype=np.float32)
        bend = rng.normal(0, 2.5, (3, 150)).astype(np.float32)[:, :, None] * np.sin(np.pi * steps)
        points = starts[:, :, None] + (ends - starts)[:, :, None] * steps + bend
        calibre = (1.0 - 0.72 * steps)[None, :] * rng.uniform(0.35, 1.0, 150).astype(np.float32)[:, None]
        where = np.rint(points).astype(np.intp).reshape(3, -1)
        inside = np.all((where >= 0) & (where < np.array(shape_zyx)[:, None]), axis=0)
        np.maximum.at(extra, tuple(where[:, inside]), 780 * calibre.ravel()[inside])
    return extra.ravel()[lungs.index_N]
