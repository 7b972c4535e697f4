"""A chest as analytic shapes, evaluated on the scanner's own grid.

Coordinates are millimetres about the middle of the scan in the patient's frame of DICOM (PS3.3 C.7.6.2.1.1):
x grows to the patient's left, y to the back, z to the head. Arrays are (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

RIGHT, LEFT = -1, 1
_WARP_MM = 20.0
"""More than any two voxels of one plane can be bent apart."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """One patient's build. Lengths in mm, HU where named."""

    cavity_half_width_mm: float
    cavity_half_depth_mm: float
    fat_mm: float
    superellipse: float
    apex_mm: float
    dome_mm: tuple[float, float]
    dome_drop_mm: float
    mediastinum_half_width_mm: float
    heart_scale: float
    heart_shift_mm: tuple[float, float, float]
    heart_turn_rad: float
    rib_pitch_mm: float
    rib_phase: float
    aorta_radius_mm: float
    bone_hu: float
    warp_mm: tuple[float, ...]
    warp_phase: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What differs between two pictures of one body; upright: gas in stomach and hernia rises to the head, not the front."""

    breath_mm: float
    lung_hu: float
    gravity_hu: float
    blood_hu: float
    organ_hu: float
    table: bool
    heart_enlargement: float = 1.0
    dome_lift_mm: tuple[float, float] = (0.0, 0.0)
    hernia_radii_mm: tuple[float, float, float] | None = None
    hernia_air_fraction: float = 0.0
    upright: bool = False


@dataclass(frozen=True, kw_only=True)
class Lungs:
    """The voxels of both lungs as flat lists, in which all findings of the lung are placed.

    index_N: flat indices into the (z, y, x) volume; x_N, y_N, z_N: warped body coordinates in mm; side_N: -1 right,
    +1 left; lobe_N: 0 upper, 1 middle or lingula, 2 lower; depth_N: 0 at the axis of the chest, 1 at the chest wall;
    above_dome_N: mm above the diaphragm.
    """

    index_N: NDArray[np.intp]
    x_N: Floats
    y_N: Floats
    z_N: Floats
    side_N: NDArray[np.int8]
    lobe_N: NDArray[np.int8]
    depth_N: Floats
    above_dome_N: Floats


@dataclass(frozen=True, kw_only=True)
class Chest:
    """Painted anatomy: the volume before blur and noise, the lungs, and the masks other findings are made of."""

    volume_hu_ZYX: Floats
    body_ZYX: Mask
    heart_ZYX: Mask
    hernia_ZYX: Mask
    lungs: Lungs


def draw_body(rng: np.random.Generator, scan_length_mm: float) -> Body:
    """One patient. The scan reaches from below the lung bases to above the apices."""
    half_length = scan_length_mm / 2
    width = rng.uniform(93, 110)
    apex = half_length - rng.uniform(12, 22)
    right_dome = -half_length + rng.uniform(62, 78)
    return Body(
        cavity_half_width_mm=width,
        cavity_half_depth_mm=float(np.clip(width * rng.uniform(0.69, 0.78), 66, 79)),
        fat_mm=rng.uniform(4, 12),
        superellipse=rng.uniform(2.1, 2.7),
        apex_mm=apex,
        dome_mm=(right_dome, right_dome - rng.uniform(4, 14)),
        dome_drop_mm=rng.uniform(34, 50),
        mediastinum_half_width_mm=rng.uniform(21, 28),
        heart_scale=rng.uniform(0.92, 1.06),
        heart_shift_mm=(rng.uniform(-5, 6), rng.uniform(-5, 5), rng.uniform(-6, 6)),
        heart_turn_rad=rng.uniform(0.5, 0.9),
        rib_pitch_mm=rng.uniform(23, 28),
        rib_phase=rng.uniform(0, 1),
        aorta_radius_mm=rng.uniform(10.5, 14),
        bone_hu=rng.uniform(380, 620),
        warp_mm=tuple(rng.uniform(1.0, 4.5, 6)),
        warp_phase=tuple(rng.uniform(0, 2 * np.pi, 12)),
    )


def draw_visit(rng: np.random.Generator) -> Visit:
    """One scan of a healthy chest: breath, contrast agent, density of the lung."""
    contrast = rng.random() < 0.5
    return Visit(
        breath_mm=rng.uniform(-9, 9),
        lung_hu=rng.uniform(-880, -815),
        gravity_hu=rng.uniform(15, 60),
        blood_hu=rng.uniform(120, 190) if contrast else rng.uniform(36, 48),
        organ_hu=rng.uniform(90, 120) if contrast else rng.uniform(48, 66),
        table=rng.random() < 0.8,
    )


def grid_coordinates_mm(shape_zyx: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> tuple[Floats, ...]:
    """(z, y, x) coordinates of voxel centres about the middle of the grid, shaped to broadcast."""
    axes = [
        ((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)
        for size, step in zip(shape_zyx, spacing_mm, strict=True)
    ]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def _warped(body: Body, z: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Bend the coordinates smoothly, so that no two patients share a surface."""

    def wave(u: Floats, phase: float, length_mm: float) -> Floats:
        return np.asarray(np.sin(u * np.float32(2 * np.pi / length_mm) + np.float32(phase)), np.float32)

    a, p = body.warp_mm, body.warp_phase
    x_w = x + a[0] * wave(y, p[0], 170) * wave(z, p[1], 190) + a[1] * wave(z, p[2], 260)
    y_w = y + a[2] * wave(x, p[3], 180) * wave(z, p[4], 210) + a[3] * wave(z, p[5], 280)
    z_w = z + a[4] * wave(x, p[6], 150) * wave(y, p[7], 170) + a[5] * wave(x, p[8], 230)
    return z_w.astype(np.float32), y_w.astype(np.float32), x_w.astype(np.float32)


def paint_tube(
    volume: Floats,
    coordinates: tuple[Floats, Floats, Floats],
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius_mm: float,
    hu: float,
    within: Mask | None = None,
) -> None:
    """Paint voxels within radius_mm of the segment start–end, points as (z, y, x) in mm of the warped coordinates."""
    box = []
    for axis, values in enumerate(coordinates):
        low, high = sorted((start[axis], end[axis]))
        along_axis = np.moveaxis(values, axis, 0)
        line = along_axis[:, along_axis.shape[1] // 2, along_axis.shape[2] // 2]
        inside = np.flatnonzero((line > low - radius_mm - _WARP_MM) & (line < high + radius_mm + _WARP_MM))
        box.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
    place = (box[0], box[1], box[2])
    offsets = [values[place] - np.float32(origin) for values, origin in zip(coordinates, start, strict=True)]
    direction = np.subtract(end, start).astype(np.float32)
    along = sum(offset * step for offset, step in zip(offsets, direction, strict=True)) / (direction @ direction)
    along = np.clip(along, 0, 1)
    squared = sum((offset - along * step) ** 2 for offset, step in zip(offsets, direction, strict=True))
    tube = squared < radius_mm**2
    volume[place][tube if within is None else tube & within[place]] = hu


def _ellipsoid(
    z: Floats, y: Floats, x: Floats, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Floats:
    """Squared normalised radius: below 1 is inside."""
    squared = ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2
    return np.asarray(squared, np.float32)


def _heart_radius(body: Body, visit: Visit, z: Floats, y: Floats, x: Floats) -> Floats:
    """Squared normalised radius of the heart: an ellipsoid lying to the left, its tip forward and down."""
    grown = visit.heart_enlargement
    dz, dy, dx = body.heart_shift_mm
    base = max(body.dome_mm) + visit.breath_mm * 0.6
    centre_z, centre_y = base + 26 + dz, -0.30 * body.cavity_half_depth_mm + dy
    centre_x = 17 + dx + 6 * (grown - 1) / 0.4
    cos, sin = np.cos(body.heart_turn_rad), np.sin(body.heart_turn_rad)
    long_axis = (x - centre_x) * cos - (y - centre_y) * sin - 0.25 * (z - centre_z)
    short_axis = (x - centre_x) * sin + (y - centre_y) * cos
    size = body.heart_scale
    squared = (
        (long_axis / (55 * size * grown)) ** 2
        + (short_axis / (38 * size * (1 + 0.75 * (grown - 1)))) ** 2
        + ((z - centre_z) / (43 * size * (1 + 0.5 * (grown - 1)))) ** 2
    )
    return np.asarray(squared, np.float32)


def hernia_centre_mm(body: Body, visit: Visit) -> tuple[float, float, float]:
    """(z, y, x) of the hiatal hernia: behind the heart, before the spine, above the diaphragm."""
    return max(body.dome_mm) + visit.breath_mm * 0.6 + 12, 0.34 * body.cavity_half_depth_mm, 6.0


def diaphragm_mm(body: Body, visit: Visit, y: Floats, x: Floats) -> Floats:
    """Height of the diaphragm over (y, x): two domes that fall off towards the chest wall."""
    width, depth = body.cavity_half_width_mm, body.cavity_half_depth_mm
    heights = []
    for side, dome, lift in zip((RIGHT, LEFT), body.dome_mm, visit.dome_lift_mm, strict=True):
        off = ((x - side * 0.45 * width) / (0.6 * width)) ** 2 + ((y + 0.1 * depth) / (0.95 * depth)) ** 2
        heights.append(dome + lift + visit.breath_mm - body.dome_drop_mm * off)
    return np.asarray(np.where(x < 0, heights[0], heights[1]), np.float32)


def _spine(volume: Floats, body: Body, z: Floats, y: Floats, x: Floats) -> Mask:
    """Paint vertebrae, discs, canal and processes; return the part that keeps the lung away."""
    front = body.cavity_half_depth_mm - 15
    vertebra = (x / 17) ** 2 + ((y - front) / 15) ** 2
    disc = np.abs(np.mod(z / 25.0 + body.rib_phase, 1.0) - 0.5) > 0.40
    inside = vertebra < 1
    volume[inside] = np.where(disc, 85.0, np.where(vertebra < 0.7, 0.45 * body.bone_hu, body.bone_hu))[inside]
    arch = (np.abs(x) < 27) & (np.abs(y - front - 19) < 5 + 0.1 * np.abs(x)) & ~disc
    spinous = (np.abs(x) < 4.5) & (y > front + 22) & (y < front + 40) & ~disc
    volume[arch | spinous] = 0.8 * body.bone_hu
    volume[(x / 9) ** 2 + ((y - front - 21) / 8) ** 2 < 1] = 25
    return np.asarray((x / 20) ** 2 + ((y - front - 4) / 22) ** 2 < 1)


def _abdomen(volume: Floats, body: Body, visit: Visit, below: Mask, z: Floats, y: Floats, x: Floats) -> None:
    """Paint liver, spleen and stomach under the domes; what is left between them is fat."""
    width, depth, level = body.cavity_half_width_mm, body.cavity_half_depth_mm, min(body.dome_mm) + visit.breath_mm
    volume[below] = -85
    volume[below & (x < 0.12 * width - 0.25 * (y + 0.2 * depth))] = visit.organ_hu
    spleen = below & (_ellipsoid(z, y, x, (level - 22, 0.45 * depth, 0.62 * width), (34, 32, 28)) < 1)
    volume[spleen] = visit.organ_hu - 6
    radius = _ellipsoid(z, y, x, (level - 20, -0.15 * depth, 0.45 * width), (30, 34, 34))
    stomach = below & (radius < 1)
    gas = z > level - 18 if visit.upright else y < -0.3 * depth
    volume[stomach] = np.where(radius > 0.78, 45.0, np.where(gas, -960.0, 18.0))[stomach]


def _mediastinum(volume: Floats, body: Body, visit: Visit, middle: Mask, z: Floats, y: Floats, x: Floats) -> None:
    """Paint great vessels, trachea and bronchi into the fat between the lungs."""
    depth, radius = body.cavity_half_depth_mm, body.aorta_radius_mm
    arch, base = body.apex_mm - 52, max(body.dome_mm) + 30
    volume[middle] = -70
    tubes = (
        ((arch, -12, -9), (base, -16, -4), radius + 1.5),
        ((arch, -12, -9), (arch - 2, 0.42 * depth, 17), radius),
        ((arch - 2, 0.42 * depth, 17), (-130, depth - 36, 20), radius - 1),
        ((arch + 45, -8, -20), (base, -8, -22), 8.0),
        ((arch - 34, -8, 26), (arch - 40, 6, -34), radius - 1),
        ((arch + 60, 6, 18), (arch, -2, 12), 5.0),
    )
    where = (z, y, x)
    for start, end, tube_radius in tubes:
        paint_tube(volume, where, start, end, tube_radius, visit.blood_hu)
    paint_tube(volume, where, (130, 30, 2), (-130, depth - 38, 3), 7.0, 38, middle)
    for end_x in (-30.0, 30.0):
        paint_tube(volume, where, (arch - 20, 10, 0), (arch - 46, 12, end_x), 6.5, -960)
    paint_tube(volume, where, (130, 6, 0), (arch - 20, 10, 0), 8.0, -970)


def _lobes(body: Body, z_N: Floats, y_N: Floats) -> NDArray[np.int8]:
    """0 upper, 1 middle or lingula, 2 lower: an oblique fissure and, before it, a horizontal one."""
    hilum = body.apex_mm - 88
    lower = z_N < hilum + 8 + 0.75 * y_N
    middle = ~lower & (z_N < hilum - 2)
    return np.where(lower, 2, np.where(middle, 1, 0)).astype(np.int8)


def paint(body: Body, visit: Visit, shape_zyx: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Chest:
    """Paint the chest of one visit on a grid. HU, sharp edges, no noise; lungs are painted plain."""
    zf, yf, xf = grid_coordinates_mm(shape_zyx, spacing_mm)
    z, y, x = _warped(body, zf, yf, xf)
    width, depth, power = body.cavity_half_width_mm, body.cavity_half_depth_mm, body.superellipse
    taper = np.clip((z - (body.apex_mm - 95)) / 95, 0, 1) ** 2
    scale = np.sqrt(np.maximum(1 - taper, 0.10))
    wall_radius = ((np.abs(x) / width) ** power + (np.abs(y) / depth) ** power) ** np.float32(1 / power)
    cavity_radius = wall_radius / scale
    wall_mm = np.asarray((cavity_radius - 1) * 0.5 * (width + depth) * scale, np.float32)
    shoulder = 1 - 0.10 * taper
    outer_x, outer_y = width + 16 + body.fat_mm, depth + 15 + body.fat_mm
    skin = ((np.abs(x) / outer_x) ** 2.3 + (np.abs(y) / outer_y) ** 2.3) / shoulder
    flesh = ((np.abs(x) / (width + 15)) ** 2.3 + (np.abs(y) / (depth + 14)) ** 2.3) / shoulder
    volume = np.full(shape_zyx, -1000, np.float32)
    body_mask = skin < 1
    volume[body_mask] = -95
    volume[flesh < 1] = 45
    cavity = cavity_radius < 1
    volume[cavity] = 40
    _bony_wall(volume, body, wall_mm, z, y, x)
    dome = diaphragm_mm(body, visit, y, x)
    above = z > dome
    spine = _spine(volume, body, z, y, x)
    _abdomen(volume, body, visit, cavity & ~above & ~spine, z, y, x)
    middle = (x / body.mediastinum_half_width_mm) ** 2 + ((y - 4) / depth) ** 2 < 1
    _mediastinum(volume, body, visit, middle & ~spine & above & (cavity_radius < 1.02), z, y, x)
    heart, hernia = _heart_and_hernia(volume, body, visit, cavity & (z > dome - 12) & ~spine, z, y, x)
    solid = spine | middle | heart | hernia | (volume > 500)
    halo = _heart_radius(body, visit, z, y, x) < 1.1
    lung = cavity & above & ~solid & ~halo & (z < body.apex_mm)
    index = np.flatnonzero(lung)
    flat = [np.ravel(values)[index] for values in (z, y, x, cavity_radius, z - dome)]
    volume.ravel()[index] = visit.lung_hu + visit.gravity_hu * flat[1] / depth
    if visit.table:
        curve = depth + 15 + body.fat_mm + 8 - 0.0016 * xf * xf
        volume[np.broadcast_to((yf > curve) & (yf < curve + 9) & (np.abs(xf) < 115), shape_zyx) & ~body_mask] = -180
    lungs = Lungs(
        index_N=index,
        z_N=flat[0],
        y_N=flat[1],
        x_N=flat[2],
        side_N=np.where(flat[2] < 0, RIGHT, LEFT).astype(np.int8),
        lobe_N=_lobes(body, flat[0], flat[1]),
        depth_N=flat[3],
        above_dome_N=flat[4],
    )
    return Chest(volume_hu_ZYX=volume, body_ZYX=body_mask, heart_ZYX=heart, hernia_ZYX=hernia, lungs=lungs)


def _bony_wall(volume: Floats, body: Body, wall_mm: Floats, z: Floats, y: Floats, x: Floats) -> None:
    """Paint ribs that fall from back to front, and the sternum."""
    rib = np.mod((z - 0.45 * y) / body.rib_pitch_mm + body.rib_phase, 1.0) < 0.42
    ring = (wall_mm > 2) & (wall_mm < 10) & (np.abs(x) > 16) & (z < body.apex_mm + 10)
    cartilage = y < -0.80 * body.cavity_half_depth_mm
    marrow = np.abs(wall_mm - 6) < 1.8
    bone = rib & ring
    volume[bone] = np.where(cartilage, 120.0, np.where(marrow, 0.55 * body.bone_hu, body.bone_hu))[bone]
    sternum = (np.abs(x) < 15) & (wall_mm > 1) & (wall_mm < 11) & (y < 0) & (z > body.apex_mm - 150)
    volume[sternum] = 0.55 * body.bone_hu


def _heart_and_hernia(
    volume: Floats, body: Body, visit: Visit, room: Mask, z: Floats, y: Floats, x: Floats
) -> tuple[Mask, Mask]:
    """Paint the heart and, where there is one, the herniated stomach behind it. Both masks are disjoint."""
    radius = _heart_radius(body, visit, z, y, x)
    hernia = np.zeros(volume.shape, np.bool_)
    if visit.hernia_radii_mm is not None:
        centre = hernia_centre_mm(body, visit)
        sac = _ellipsoid(z, y, x, centre, visit.hernia_radii_mm)
        hernia = room & (sac < 1)
        level = 2 * visit.hernia_air_fraction - 1
        gas = y < centre[1] + level * visit.hernia_radii_mm[1]
        if visit.upright:
            gas = z > centre[0] - level * visit.hernia_radii_mm[0]
        volume[hernia] = np.where(sac > 0.72, 48.0, np.where(gas, -930.0, 22.0))[hernia]
    heart = room & (radius < 1) & ~hernia
    volume[room & (radius >= 1) & (radius < 1.1) & ~hernia] = -75
    muscle = 0.5 * visit.blood_hu + 30
    chambers = (radius < 0.62) & (np.abs(np.mod(x + y, 60) - 30) > 4)
    volume[heart] = np.where(chambers, visit.blood_hu, muscle)[heart]
    return heart, hernia
