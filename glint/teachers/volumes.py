"""Volumes of stage 04, or films as volumes of one slice, as the encoder sees them: window channels, patch coverage, random shifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.formats.manifest import read_manifest
from glint.formats.model_image import load_model_image, read_image_rows

AIR_HU = -1024
Floats = NDArray[np.float32]
Channels = Callable[[NDArray[Any]], Floats]
"""HU (Z, Y, X) → window channels (C, Z, Y, X) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One accepted volume of stage 04. `valid_box` is (z0, z1, y0, y1, x0, x1), half-open; `affine` 4 × 4, RAS mm."""

    study_id: str
    patient_id: str
    path: Path
    affine: NDArray[np.float64]
    valid_box: tuple[int, ...]


def read_sources(manifests: Sequence[Path]) -> tuple[Source, ...]:
    """Accepted volumes of some stage-04 manifests, by study.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    rows = read_image_rows(manifests).filter(pl.col("status") == "ok").sort("study_id")
    return tuple(
        Source(
            study_id=row["study_id"],
            patient_id=row["patient_id"],
            path=Path(row["folder"], row["path"]),
            affine=np.asarray(row["affine"], dtype=np.float64).reshape(4, 4),
            valid_box=tuple(row["valid_box"]),
        )
        for row in rows.to_dicts()
    )


def training_sources(manifests: Sequence[Path], split: Path) -> tuple[Source, ...]:
    """Accepted volumes of the training split alone, by study.

    Raises:
        InputError: a manifest is absent or of another schema, or the training split has no volume.
    """
    rows = read_manifest(split, "split").filter((pl.col("status") == "ok") & (pl.col("split") == "train"))
    training = frozenset(rows["study_id"].to_list())
    sources = tuple(source for source in read_sources(manifests) if source.study_id in training)
    if not sources:
        raise InputError(f"{split}: no accepted volume belongs to the training split; check stages 04 and 06")
    return sources


def shift_volume(volume_ZYX: NDArray[Any], shift_zyx: tuple[int, int, int]) -> NDArray[Any]:
    """Move the content by whole voxels (z, y, x); what comes in from outside is air, on films black."""
    if shift_zyx == (0, 0, 0):
        return volume_ZYX
    moved = np.full_like(volume_ZYX, AIR_HU if volume_ZYX.dtype.kind == "i" else 0)
    taken, given = [], []
    for step, size in zip(shift_zyx, volume_ZYX.shape, strict=True):
        taken.append(slice(max(0, -step), size - max(0, step)))
        given.append(slice(max(0, step), size - max(0, -step)))
    moved[tuple(given)] = volume_ZYX[tuple(taken)]
    return moved


@dataclass(frozen=True, kw_only=True)
class VolumeWindows:
    """Volumes read from disk when asked for: uncompressed files, so that the page cache holds what memory allows."""

    sources: tuple[Source, ...]
    channels: Channels

    def __len__(self) -> int:
        return len(self.sources)

    def window(self, index: int, shift_zyx: tuple[int, int, int] = (0, 0, 0)) -> Floats:
        """(C, Z, Y, X) float32 in [0, 1].

        Raises:
            InputError: the file is absent or damaged.
        """
        volume, _ = load_model_image(self.sources[index].path)
        return self.channels(shift_volume(volume, shift_zyx))


def volume_shape(sources: Sequence[Source]) -> tuple[int, int, int]:
    """Shape (z, y, x) of the first volume; all volumes of stage 04 share their grid."""
    shape = load_model_image(sources[0].path)[0].shape
    return shape[0], shape[1], shape[2]


def patch_coverage(
    valid_box: Sequence[int], volume_zyx: tuple[int, int, int], patch_zyx: tuple[int, int, int]
) -> Floats:
    """(P,) share of every patch's voxels that lie within the scan, 0 to 1; token order (x runs fastest)."""
    inside_ZYX = np.zeros(volume_zyx, np.float32)
    z0, z1, y0, y1, x0, x1 = valid_box
    inside_ZYX[z0:z1, y0:y1, x0:x1] = 1
    (gz, gy, gx), (pz, py, px) = (size // patch for size, patch in zip(volume_zyx, patch_zyx, strict=True)), patch_zyx
    blocks = inside_ZYX.reshape(gz, pz, gy, py, gx, px)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3, 5)).ravel(), dtype=np.float32)
