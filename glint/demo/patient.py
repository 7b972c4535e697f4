"""One study of the synthetic hospital as arrays: a body, its scan, its findings and their masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glint.core.config.demo import DemoConfig
from glint.core.seeds import generator
from glint.demo.anatomy import RIGHT, Body, Chest, Floats, Mask, Visit, draw_body, draw_visit, paint
from glint.demo.catalogue import FINDINGS, PlacedFinding, choose_findings, patient_of
from glint.demo.findings import PAINTERS, Canvas, Spot, lung_vessels, sides_of, waves
from glint.demo.scanner import Scan, acquire, draw_scan

_GRADES = {"pleural_effusion": (160.0, 330.0), "pneumothorax": (200.0, 360.0), "emphysema": (450.0, 800.0)}
"""cm³ up to which a finding is called small or mild, and moderate."""


@dataclass(frozen=True, kw_only=True)
class SyntheticStudy:
    """A study before anyone typed anything. volume_hu_ZYX float32 whole HU; masks by finding, (z, y, x)."""

    number: int
    patient_number: int
    contrast: bool
    scan: Scan
    volume_hu_ZYX: Floats
    body_ZYX: Mask
    lung_ZYX: Mask
    masks: dict[str, Mask]
    findings: tuple[PlacedFinding, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths, (z, y, x)."""
        return self.scan.spacing_mm


def synthesise(seed: int, number: int, config: DemoConfig) -> SyntheticStudy:
    """Make study `number` of the hospital `seed`; depends on nothing else, so studies can be made in any order."""
    patient = patient_of(seed, number, config)
    build = generator(seed, "patient", patient)
    length_mm = build.uniform(config.scan_length_mm_min, config.scan_length_mm_max)
    body = draw_body(build, length_mm)
    rng = generator(seed, "study", number)
    scan = draw_scan(rng, config, length_mm)
    chosen = choose_findings(seed, number, config)
    sides = sides_of(rng, chosen)
    visit = fall_ill(rng, draw_visit(rng), chosen, sides)
    chest = paint(body, visit, scan.shape_zyx, scan.spacing_mm)
    masks, placed = paint_findings(rng, config, body, visit, chest, chosen, sides, scan.spacing_mm)
    lung = np.zeros(scan.shape_zyx, np.bool_)
    lung.ravel()[chest.lungs.index_N] = True
    return SyntheticStudy(
        number=number,
        patient_number=patient,
        contrast=visit.blood_hu > 100,
        scan=scan,
        volume_hu_ZYX=acquire(rng, chest.volume_hu_ZYX, scan),
        body_ZYX=chest.body_ZYX,
        lung_ZYX=lung,
        masks=masks,
        findings=placed,
    )


def paint_findings(
    rng: np.random.Generator,
    config: DemoConfig,
    body: Body,
    visit: Visit,
    chest: Chest,
    chosen: tuple[str, ...],
    sides: dict[str, tuple[int, ...]],
    spacing_mm: tuple[float, float, float],
) -> tuple[dict[str, Mask], tuple[PlacedFinding, ...]]:
    """Paint lung texture and the chosen findings into `chest`: masks (z, y, x) by finding, and what a reader would say."""
    voxel_cm3 = float(np.prod(spacing_mm)) / 1000
    spots, masks = _paint_lungs(rng, chest, sides, voxel_cm3, upright=visit.upright)
    placed = [_placed(rng, config, name, found, voxel_cm3) for name, found in spots.items()]
    for name, mask in (("cardiomegaly", chest.heart_ZYX), ("hiatal_hernia", chest.hernia_ZYX)):
        if name in chosen:
            masks[name] = mask
            placed.append(_placed_midline(rng, config, name, body, visit, float(mask.sum()) * voxel_cm3))
    ordered = {name: masks[name] for name in FINDINGS if name in masks}
    return ordered, tuple(sorted(placed, key=lambda found: FINDINGS.index(found.finding)))


def fall_ill(
    rng: np.random.Generator, visit: Visit, chosen: tuple[str, ...], sides: dict[str, tuple[int, ...]]
) -> Visit:
    """What findings change in the anatomy itself: heart size, raised diaphragm, herniated stomach."""
    enlargement, radii = rng.uniform(1.35, 1.5), rng.uniform(24, 33, 3)
    air, lift = rng.uniform(0.2, 0.55), rng.uniform(14, 22)
    if "cardiomegaly" in chosen:
        visit = replace(visit, heart_enlargement=enlargement)
    if "hiatal_hernia" in chosen:
        visit = replace(
            visit, hernia_radii_mm=(float(radii[0]), float(radii[1]), float(radii[2])), hernia_air_fraction=air
        )
    collapsed = sides.get("atelectasis", ())
    lifts = tuple(lift if side in collapsed else 0.0 for side in (RIGHT, -RIGHT))
    return replace(visit, dome_lift_mm=(lifts[0], lifts[1]))


def _paint_lungs(
    rng: np.random.Generator, chest: Chest, sides: dict[str, tuple[int, ...]], voxel_cm3: float, *, upright: bool
) -> tuple[dict[str, list[Spot]], dict[str, Mask]]:
    """Paint texture, vessels and findings into the lungs of `chest`; spots and (z, y, x) masks by finding."""
    lungs, volume = chest.lungs, chest.volume_hu_ZYX
    canvas = Canvas(lungs=lungs, hu_N=volume.ravel()[lungs.index_N], voxel_cm3=voxel_cm3, upright=upright)
    texture = 9 * waves(rng, lungs, 60.0) + rng.normal(0, 14, lungs.x_N.shape).astype(np.float32)
    canvas.hu_N += texture + lung_vessels(rng, lungs, (volume.shape[0], volume.shape[1], volume.shape[2]))
    spots: dict[str, list[Spot]] = {}
    for name, (painter, _) in PAINTERS.items():
        for side in sides.get(name, ()):
            spots.setdefault(name, []).extend(painter(canvas, rng, side))
    volume.ravel()[lungs.index_N] = canvas.hu_N
    masks = {}
    for name, found in spots.items():
        mask = np.zeros(volume.size, np.bool_)
        mask[lungs.index_N] = np.logical_or.reduce([spot.mask_N for spot in found])
        masks[name] = mask.reshape(volume.shape)
    return spots, masks


def _grade(finding: str, volume_cm3: float) -> str | None:
    """small, moderate or large by volume, for findings that readers grade."""
    if finding not in _GRADES:
        return None
    small, moderate = _GRADES[finding]
    return "small" if volume_cm3 < small else "moderate" if volume_cm3 < moderate else "large"


def _placed(
    rng: np.random.Generator, config: DemoConfig, name: str, spots: list[Spot], voxel_cm3: float
) -> PlacedFinding:
    """Sum up the spots of one finding as a reader would."""
    sides = {spot.side for spot in spots}
    regions = {spot.region for spot in spots}
    volume = float(sum(spot.mask_N.sum() for spot in spots)) * voxel_cm3
    return PlacedFinding(
        finding=name,
        laterality="bilateral" if len(sides) > 1 else "right" if RIGHT in sides else "left",
        region=regions.pop() if len(regions) == 1 else None,
        size_mm=round(max(spot.size_mm for spot in spots), 1),
        grade=_grade(name, volume / len(sides)),
        volume_cm3=round(volume, 2),
        certain=bool(rng.random() >= config.uncertain_fraction),
        reported=bool(name != "nodule" or rng.random() >= config.missed_fraction),
    )


def _placed_midline(
    rng: np.random.Generator, config: DemoConfig, name: str, body: Body, visit: Visit, volume_cm3: float
) -> PlacedFinding:
    """The heart or the hernia: no side, no lobe."""
    size = 110 * body.heart_scale * visit.heart_enlargement
    if visit.hernia_radii_mm is not None and name == "hiatal_hernia":
        size = 2 * max(visit.hernia_radii_mm)
    return PlacedFinding(
        finding=name,
        laterality=None,
        region=None,
        size_mm=round(size, 1),
        grade=None,
        volume_cm3=round(volume_cm3, 2),
        certain=bool(rng.random() >= config.uncertain_fraction),
    )
