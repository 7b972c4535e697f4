"""Volumes of stage 04 for training: all of them in memory, or files that are read when a batch asks for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.core.progress import log
from glint.formats.model_image import load_model_image

Grid = tuple[int, int, int]
BYTES_PER_VOXEL = 2
"""int16 HU, uint16 grey."""


@dataclass(frozen=True, kw_only=True)
class VolumeFiles:
    """Volumes (B, Z, Y, X) that stay on disk; one is read whenever its row is asked for, from any thread."""

    paths: tuple[Path, ...]
    grid: Grid

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, Z, Y, X), as of an array."""
        return (len(self.paths), *self.grid)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Volume (Z, Y, X) of a row.

        Raises:
            InputError: the file is absent, unreadable or has another grid.
        """
        return read_volume(self.paths[row], self.grid)


Volumes = NDArray[Any] | VolumeFiles


def read_volume(path: Path, grid: Grid) -> NDArray[Any]:
    """A volume (Z, Y, X) of stage 04.

    Raises:
        InputError: the file is absent, unreadable or has another grid than the teacher was made for.
    """
    volume, _ = load_model_image(path)
    if volume.shape != grid:
        raise InputError(f"{path}: shape {volume.shape}, the teacher was made for {grid}; run stages 04 to 08 again")
    return volume


def gather_volumes(paths: Sequence[Path], grid: Grid, *, memory_gib: float) -> Volumes:
    """The volumes in memory where all of them take at most `memory_gib`, else their files.

    Raises:
        InputError: a file is absent, unreadable or has another grid; of volumes that stay on disk absence alone is seen here.
    """
    needed_gib = len(paths) * math.prod(grid) * BYTES_PER_VOXEL / 2**30
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the resample stage again")
    if needed_gib <= memory_gib:
        return np.stack([read_volume(path, grid) for path in paths])
    log(
        f"{len(paths)} volumes take {needed_gib:.1f} GiB, more than train.memory_gib of {memory_gib:g}: they are read batch by batch"
    )
    return VolumeFiles(paths=tuple(paths), grid=grid)
