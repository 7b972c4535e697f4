"""One film study of the synthetic hospital as arrays: the body of a CT patient, standing or sitting, with its shoulders on.

A chest in deep breath is longer than in the supine scan: the same analytic body is painted on a grid that is drawn out
along z, so that what the findings' painters measure in mm is true on the film.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glint.core.config.demo import DemoConfig
from glint.core.seeds import generator
from glint.demo.anatomy import (
    Body,
    Chest,
    Floats,
    Mask,
    Visit,
    draw_body,
    draw_visit,
    grid_coordinates_mm,
    paint,
    paint_tube,
)
from glint.demo.catalogue import PlacedFinding, choose_findings, patient_of
from glint.demo.findings import sides_of
from glint.demo.patient import fall_ill, paint_findings
from glint.demo.people import make_patient

FIRST_FILM_STUDY = 200_000
"""Film study n is study FIRST_FILM_STUDY + n of the hospital, of the patient whom CT study n belongs to."""

SHAPE_ZYX = (116, 63, 116)
SPACING_MM = (3.0, 4.0, 2.8)
STRETCH = {"PA": (1.26, 1.38), "AP": (1.08, 1.2)}
"""How much longer the chest is than in the scan, by the frontal view: standing in deep breath, or sitting in bed."""


@dataclass(frozen=True, kw_only=True)
class FilmStudy:
    """A film study before anyone exposed it.

    view: PA or AP; volume_hu_ZYX float32; arms_ZYX what is raised out of the way for a lateral film; masks by finding.
    """

    number: int
    patient_number: int
    view: str
    has_lateral: bool
    volume_hu_ZYX: Floats
    arms_ZYX: Mask
    masks: dict[str, Mask]
    findings: tuple[PlacedFinding, ...]


def pose(seed: int, number: int, config: DemoConfig) -> FilmStudy:
    """Film study `number`, counted from FIRST_FILM_STUDY; depends on seed and number alone."""
    patient = patient_of(seed, number - FIRST_FILM_STUDY, config)
    build = generator(seed, "patient", patient)
    body = draw_body(build, build.uniform(config.scan_length_mm_min, config.scan_length_mm_max))
    rng = generator(seed, "study", number)
    view = "AP" if rng.random() < config.films.portable_fraction else "PA"
    has_lateral = bool(rng.random() < config.films.lateral_fraction) and view == "PA"
    stretch = rng.uniform(*STRETCH[view])
    chosen = choose_findings(seed, number, config)
    sides = sides_of(rng, chosen)
    visit = fall_ill(rng, draw_visit(rng), chosen, sides)
    # No contrast agent and no table in a film; who lies in bed still has fluid at the back.
    visit = replace(visit, blood_hu=42.0, organ_hu=56.0, gravity_hu=15.0, table=False, upright=view == "PA")
    chest = paint(body, visit, SHAPE_ZYX, (SPACING_MM[0] / stretch, *SPACING_MM[1:]))
    chest = _drawn_out(chest, stretch)
    _great_vessels(chest, body, visit, stretch)
    _bones(chest.volume_hu_ZYX, body)
    masks, placed = paint_findings(rng, config, body, visit, chest, chosen, sides, SPACING_MM)
    arms = _shoulders(chest, body, stretch, arms_forward=view == "PA")
    if make_patient(seed, patient).sex == "F":
        _breasts(chest.volume_hu_ZYX, body, rng, stretch)
    return FilmStudy(
        number=number,
        patient_number=patient,
        view=view,
        has_lateral=has_lateral,
        volume_hu_ZYX=chest.volume_hu_ZYX,
        arms_ZYX=arms,
        masks=masks,
        findings=placed,
    )


def _drawn_out(chest: Chest, stretch: float) -> Chest:
    lungs = chest.lungs
    longer = replace(lungs, z_N=lungs.z_N * np.float32(stretch), above_dome_N=lungs.above_dome_N * np.float32(stretch))
    return replace(chest, lungs=longer)


def _ellipsoid(
    z: Floats, y: Floats, x: Floats, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Mask:
    squared = sum(((u - c) / r) ** 2 for u, c, r in zip((z, y, x), centre, radii, strict=True))
    return np.asarray(squared < 1)


def _great_vessels(chest: Chest, body: Body, visit: Visit, stretch: float) -> None:
    """What borders a heart's silhouette on films and lies within the fat of the scan: aortic knob, hila, right atrium."""
    volume = chest.volume_hu_ZYX
    z, y, x = grid_coordinates_mm(SHAPE_ZYX, SPACING_MM)
    full_z, full_y, full_x = np.broadcast_arrays(z, y, x)
    where = (full_z, full_y, full_x)
    depth, radius = body.cavity_half_depth_mm, body.aorta_radius_mm
    arch = (body.apex_mm - 50) * stretch
    paint_tube(volume, where, (arch, -8, 2), (arch - 3, 0.35 * depth, 24), radius + 1, 42)
    paint_tube(volume, where, (arch - 3, 0.35 * depth, 24), (arch - 130, 0.5 * depth, 18), radius - 1, 42)
    for side, drop in ((-1, 6.0), (1, 0.0)):
        root = arch - 36 - drop
        paint_tube(volume, where, (root, 4, side * 12), (root - 6, 8, side * 36), 9.0, 42)
        for reach, fall, calibre in ((52, 34, 6.5), (58, -22, 4.5), (74, 14, 4.0), (46, 70, 4.5)):
            paint_tube(volume, where, (root - 6, 8, side * 34), (root - fall, 14, side * reach), calibre, 20)
    grown = visit.heart_enlargement
    base = (max(body.dome_mm) + 0.6 * visit.breath_mm + 22) * stretch
    radii = (34 * stretch * (0.5 + 0.5 * grown), 30.0, 31 * grown)
    atrium = _ellipsoid(z, y, x, (base, -0.22 * depth, -10.0), radii) & (volume < 100) & (volume > -1000)
    atrium &= z > base - 60
    volume[atrium & ~chest.hernia_ZYX] = 42
    chest.heart_ZYX[atrium & ~chest.hernia_ZYX] = True


def _bones(volume: Floats, body: Body) -> None:
    """Ribs with a dense cortex and a spine that the mediastinum nearly hides, as a hard beam shows them."""
    _, y, x = grid_coordinates_mm(SHAPE_ZYX, SPACING_MM)
    dense = volume > 150
    spine = (np.abs(x) < 34) & (y > body.cavity_half_depth_mm - 36)
    volume[dense & spine] *= 0.5
    volume[dense & ~spine] *= 1.45


def _shoulders(chest: Chest, body: Body, stretch: float, *, arms_forward: bool) -> Mask:
    """Carve neck and shoulders out of the block above the lungs; add upper arms, clavicles and shoulder blades.

    Returns the voxels of the arms.
    """
    volume = chest.volume_hu_ZYX
    z, y, x = grid_coordinates_mm(SHAPE_ZYX, SPACING_MM)
    apex, width, depth, bone = (
        body.apex_mm * stretch,
        body.cavity_half_width_mm,
        body.cavity_half_depth_mm,
        body.bone_hu,
    )
    beside = np.abs(x)
    aside = np.maximum(0, beside - 44)
    slope = apex + 46 - 0.95 * aside + 0.0028 * aside**2
    neck = (beside / 50) ** 2 + ((y - 8) / 58) ** 2 < 1
    volume[(z > slope) & ~((z > apex) & neck)] = -1000
    trunk = volume > -150
    joint = (apex - 14, 0.1 * depth, width + 24.0)
    full_z, full_y, full_x = np.broadcast_arrays(z, y, x)
    where = (full_z, full_y, full_x)
    for side in (-1, 1):
        arm = (x * side > 0) & (volume < -150)
        muscle = _ellipsoid(z, y, x, (joint[0] - 20, joint[1], side * joint[2]), (48, 38, 30))
        muscle = muscle | (
            (beside > width + 8) & _ellipsoid(z, y, x, (joint[0] - 70, joint[1], side * (width + 34)), (90, 34, 24))
        )
        volume[np.broadcast_to(muscle, volume.shape) & arm] = 40
        for radius, hu in ((19.0, 0.9 * bone), (15.0, 0.45 * bone)):
            volume[_ellipsoid(z, y, x, (joint[0], joint[1], side * (joint[2] + 4)), (radius,) * 3)] = hu
            shaft = ((joint[0], joint[1], side * (joint[2] + 10)), (joint[0] - 140, joint[1], side * (joint[2] + 34)))
            paint_tube(volume, where, *shaft, 0.62 * radius, hu)
    arms = ~trunk & (volume > -150)
    for side in (-1, 1):
        _clavicle(volume, where, side, apex, width, depth, bone)
        _blade(volume, (z, y, x), side, apex, width, depth, bone, arms_forward=arms_forward)
    return np.asarray(arms)


def _clavicle(
    volume: Floats,
    where: tuple[Floats, Floats, Floats],
    side: int,
    apex: float,
    width: float,
    depth: float,
    bone: float,
) -> None:
    points = ((apex - 16, -0.74 * depth, 17), (apex - 8, -0.7 * depth, 56), (apex + 2, -0.3 * depth, width + 12))
    for start, end in ((points[0], points[1]), (points[1], points[2])):
        for radius, hu in ((7.0, 2.2 * bone), (3.6, 0.6 * bone)):
            tube = [(a[0], a[1], side * a[2]) for a in (start, end)]
            paint_tube(volume, where, tube[0], tube[1], radius, hu)


def _blade(
    volume: Floats,
    where: tuple[Floats, Floats, Floats],
    side: int,
    apex: float,
    width: float,
    depth: float,
    bone: float,
    *,
    arms_forward: bool,
) -> None:
    """A shoulder blade: a triangle of thin bone behind the ribs, drawn aside where the arms are brought forward."""
    z, y, x = where
    inner = (0.86 if arms_forward else 0.62) * width
    down = apex - 6 - z
    plate = (np.abs(y - 0.72 * depth + 0.45 * (np.abs(x) - inner)) < 4) & (x * side > inner) & (down > 0) & (down < 115)
    plate = plate & (x * side < inner + 52 * (1 - down / 150))
    plain = (volume > -150) & (volume < 90)
    volume[plain & plate] = 0.9 * bone


def _breasts(volume: Floats, body: Body, rng: np.random.Generator, stretch: float) -> None:
    """Two soft shadows before the chest wall, of a size that varies: a rounded lower edge, above it a gradual slope."""
    z, y, x = grid_coordinates_mm(SHAPE_ZYX, SPACING_MM)
    front = -(body.cavity_half_depth_mm + 12 + body.fat_mm)
    size = rng.uniform(0.75, 1.25)
    low = (body.apex_mm - 112) * stretch
    for side in (-1, 1):
        beside = side * x - 0.52 * body.cavity_half_width_mm
        across = beside / np.where(beside < 0, 62 * size, 46 * size)
        down = (z - low) / np.where(z < low, 34 * size, 92.0)
        bulge = 20 * size * np.sqrt(np.maximum(0, 1 - across**2)) * np.maximum(0, 1 - down**2)
        breast = (x * side > 0) & (bulge > 3) & (y < front + 16) & (y > front + 8 - bulge)
        volume[breast & (volume < -500)] = -45
