"""The studies of stage 10: image, masks and labels of each, read when needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.evaluation.truth import read_bits, read_truth
from glint.formats.manifest import read_manifest, read_manifests
from glint.formats.model_image import Bits, load_model_image, read_image_rows

ValidBox = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ImagedStudy:
    """One study. `valid_box` is (z0, z1, y0, y1, x0, x1), half-open: where the scan is, not padding."""

    study_id: str
    patient_id: str
    split: str
    volume_path: Path
    valid_box: ValidBox

    def volume(self) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """HU or grey on the model's grid (Z, Y, X), and the affine."""
        return load_model_image(self.volume_path)


@dataclass(frozen=True, kw_only=True)
class Study(ImagedStudy):
    """One study with masks, or with labels alone (`truth_path` None)."""

    truth_path: Path | None
    findings: frozenset[str]

    def bits(self) -> Bits:
        """Masks as a bit field (Z, Y, X), empty where none was drawn."""
        if self.truth_path is None:
            return np.zeros(self.volume()[0].shape, np.uint16)
        return read_bits(self.truth_path)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Studies with masks or labels by split, findings in the order of their bits, and how many studies were left out for lack of both
    or of tokens."""

    studies: dict[str, tuple[Study, ...]]
    findings: tuple[str, ...]
    left_out: dict[str, int]


def read_imaged(*, resampled: Sequence[Path], split: Path) -> dict[str, tuple[ImagedStudy, ...]]:
    """Every usable study of each split, in order of its name; no masks are needed.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    splits = read_manifest(split, "split").filter(pl.col("status") == "ok").select("study_id", "split")
    images = read_manifests(list(resampled), "resample").filter(pl.col("status") == "ok").join(splits, on="study_id")
    studies: dict[str, list[ImagedStudy]] = {"train": [], "validation": [], "test": []}
    for row in images.sort("study_id").to_dicts():
        studies[row["split"]].append(
            ImagedStudy(
                study_id=row["study_id"],
                patient_id=row["patient_id"],
                split=row["split"],
                volume_path=Path(row["folder"], row["path"]),
                valid_box=tuple(row["valid_box"]),
            )
        )
    return {name: tuple(rows) for name, rows in studies.items()}


def read_cohort(*, resampled: Sequence[Path], split: Path, truth: Path, features: Sequence[Path]) -> Cohort:
    """Join images, split, truth and teacher tokens.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    masks, findings = read_truth(truth)
    splits = read_manifest(split, "split").filter(pl.col("status") == "ok").select("study_id", "split")
    images = read_image_rows(resampled).filter(pl.col("status") == "ok").join(splits, on="study_id")
    drawn = masks.select("study_id", "findings", truth_path="path")
    if features:  # none where the teacher ran in the training step
        encoded = read_manifests(list(features), "features").filter(pl.col("status") == "ok").select("study_id")
        drawn = drawn.join(encoded, on="study_id", how="semi")
    studies: dict[str, list[Study]] = {"train": [], "validation": [], "test": []}
    missing = dict.fromkeys(studies, 0)
    for row in images.join(drawn, on="study_id", how="left").sort("study_id").to_dicts():
        if row["findings"] is None:
            missing[row["split"]] += 1
            continue
        studies[row["split"]].append(
            Study(
                study_id=row["study_id"],
                patient_id=row["patient_id"],
                split=row["split"],
                volume_path=Path(row["folder"], row["path"]),
                truth_path=None if row["truth_path"] is None else truth.parent / row["truth_path"],
                valid_box=tuple(row["valid_box"]),
                findings=frozenset(row["findings"]),
            )
        )
    return Cohort(studies={name: tuple(rows) for name, rows in studies.items()}, findings=findings, left_out=missing)


def positive_labels(studies: Sequence[Study], findings: Sequence[str]) -> NDArray[np.bool_]:
    """(F, B) which study has which finding, by the masks on the scan's own grid and by the labels."""
    return np.array([[finding in study.findings for study in studies] for finding in findings], dtype=np.bool_).reshape(
        len(findings), len(studies)
    )


def require_studies(studies: Sequence[Study], split: str) -> None:
    """Raise InputError when there is nothing to measure."""
    if not studies:
        raise InputError(
            f"the {split} split has no study with masks or labels: nothing to measure; check stages 06 and 10 truth"
        )
