"""Which findings there are, in which order their truth bits lie, and which keep each other company."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glint.core.config.demo import DemoConfig
from glint.core.seeds import generator

FINDINGS = (
    "nodule",
    "mass",
    "consolidation",
    "ground_glass_opacity",
    "pleural_effusion",
    "pneumothorax",
    "emphysema",
    "atelectasis",
    "cardiomegaly",
    "hiatal_hernia",
)
"""Truth bit k of a voxel says FINDINGS[k]."""

_BLOCK = 40
_ALONE = {"mass": 1.4, "hiatal_hernia": 1.1, "pneumothorax": 0.9, "ground_glass_opacity": 0.9}
_ELSE = 0.7
"""Weight of a companion with no tie to what is there; _ALONE where rarer findings would lack positives."""
_COMPANY: dict[str, dict[str, float]] = {
    "nodule": {"emphysema": 2.5, "mass": 1.5},
    "mass": {"nodule": 2.5, "emphysema": 2.0, "pleural_effusion": 1.5, "atelectasis": 1.5},
    "consolidation": {"ground_glass_opacity": 3.0, "pleural_effusion": 2.0},
    "ground_glass_opacity": {"consolidation": 3.0, "cardiomegaly": 1.2},
    "pleural_effusion": {"atelectasis": 3.5, "cardiomegaly": 3.0, "consolidation": 1.2},
    "pneumothorax": {"emphysema": 3.0, "atelectasis": 1.5},
    "emphysema": {"nodule": 2.5, "pneumothorax": 2.5, "mass": 1.5},
    "atelectasis": {"pleural_effusion": 3.5, "hiatal_hernia": 1.5},
    "cardiomegaly": {"pleural_effusion": 3.5, "ground_glass_opacity": 1.2},
    "hiatal_hernia": {"atelectasis": 2.0, "cardiomegaly": 1.2},
}


@dataclass(frozen=True, kw_only=True)
class PlacedFinding:
    """One finding of one study, as it was painted.

    laterality: left, right, bilateral or None (midline); region: upper, middle (on the left: lingula), lower, or None;
    size_mm: largest diameter, or thickness of a pleural layer; grade: small, moderate, large, or None;
    volume_cm3: what the mask holds; certain: False where the reader hedges; reported: False where the reader missed it.
    """

    finding: str
    laterality: str | None
    region: str | None
    size_mm: float
    grade: str | None
    volume_cm3: float
    certain: bool = True
    reported: bool = True


def patient_of(seed: int, number: int, config: DemoConfig) -> int:
    """The patient of study `number`; a second visit belongs to the patient of the study before it."""

    def returns(study: int) -> bool:
        return study > 0 and generator(seed, "return", study).random() < config.repeat_fraction

    return number - 1 if returns(number) and not returns(number - 1) else number


def choose_findings(seed: int, number: int, config: DemoConfig) -> tuple[str, ...]:
    """Findings of study `number`, none for a normal one: alone a function of seed and number, so that a larger
    hospital begins with a smaller one's studies.

    In every block of 40 studies the fraction of normals is exact and every finding leads equally often;
    companions are drawn by how often diseases keep company.
    """
    block, place = divmod(number, _BLOCK)
    normals = round(_BLOCK * config.normal_fraction)
    order = generator(seed, "block", block).permutation(_BLOCK)
    rank = int(order[place])
    if rank < normals:
        return ()
    rng = generator(seed, "findings", number)
    chosen = [FINDINGS[(rank - normals) % len(FINDINGS)]]
    count = int(rng.choice([1, 2, 3, 4], p=[0.32, 0.36, 0.22, 0.10]))
    while len(chosen) < count:
        weights = np.array([_affinity(chosen, name) for name in FINDINGS])
        chosen.append(FINDINGS[int(rng.choice(len(FINDINGS), p=weights / weights.sum()))])
    return tuple(chosen)


def _affinity(chosen: list[str], name: str) -> float:
    """How readily `name` joins the findings chosen so far."""
    if name in chosen:
        return 0.0
    return max(_COMPANY[present].get(name, _ALONE.get(name, _ELSE)) for present in chosen)
