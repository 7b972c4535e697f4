"""The frozen teacher's tokens of some studies, from the cache of stage 08 or computed when asked: one interface, equal tokens.

The teacher always sees the clean, whole volume: photometric changes and shifts are the student's. A volume moved by a part of a patch
has its cached tokens interpolated at the student's patch centres; the teacher that runs in the step sees the moved volume itself.
A mirrored volume has no cached tokens at all, for no vision transformer is equivariant to flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glint.core.errors import ConfigError
from glint.formats.feature_cache import FeatureCache
from glint.prepare.resample import window_channels
from glint.teachers.crops import moved_tokens
from glint.teachers.kernels import TeacherPass
from glint.teachers.volumes import shift_volume
from glint.training.volumes import Volumes

Size = tuple[int, int, int]
STILL = (0, 0, 0)
Rows = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class View:
    """How the student sees the volumes of a batch: moved by whole voxels (z, y, x), mirrored left to right."""

    shift_zyx: Size = STILL
    mirrored: bool = False


PLAIN = View()


class TeacherTokens(Protocol):
    """Tokens by block and study."""

    def read(self, blocks: Sequence[int], rows: Rows, view: View = PLAIN) -> dict[int, Tensor]:
        """Block → (B, P, D) float32 of the studies `rows`, as the teacher has them for this view.

        Raises:
            ConfigError: there are none for this view.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CachedTokens:
    """Tokens mapped from feature caches. Study b is row `rows_B[b]` of cache `caches[cache_B[b]]`."""

    caches: tuple[FeatureCache, ...]
    cache_B: NDArray[np.int64]
    rows_B: NDArray[np.int64]
    patch_zyx: Size

    def read(self, blocks: Sequence[int], rows: Rows, view: View = PLAIN) -> dict[int, Tensor]:
        """Mapped rows; interpolated where the view is moved."""
        if view.mirrored:
            raise ConfigError(
                "train.augment.flip: the cached tokens of a volume are not those of its mirror image; set teacher.features to online"
            )
        chosen = np.asarray(rows, dtype=np.int64)
        found = {}
        for block in blocks:
            parts: list[Tensor] = [torch.empty(0)] * len(chosen)
            for number, cache in enumerate(self.caches):
                places = np.flatnonzero(self.cache_B[chosen] == number)
                read = cache.read(block, self.rows_B[chosen[places]]) if len(places) else ()
                for place, tokens_PD in zip(places, read, strict=True):
                    parts[place] = torch.from_numpy(np.asarray(tokens_PD, dtype=np.float32))
            found[block] = torch.stack(parts)
            if view.shift_zyx != STILL:
                grid = self.caches[0].grid
                found[block] = moved_tokens(found[block], grid, self.patch_zyx, view.shift_zyx)[0]
        return found


@dataclass(frozen=True, kw_only=True)
class OnlineTokens:
    """Tokens of a teacher that runs when asked, on the volumes (B, Z, Y, X) in HU that training reads."""

    teacher: TeacherPass
    volume_BZYX: Volumes
    windows: Sequence[tuple[float, float]]
    batch_size: int = 8

    @torch.no_grad()
    def read(self, blocks: Sequence[int], rows: Rows, view: View = PLAIN) -> dict[int, Tensor]:
        """One pass of the teacher."""
        device = next(self.teacher.teacher.parameters()).device
        parts: dict[int, list[Tensor]] = {block: [] for block in blocks}
        for start in range(0, len(rows) if blocks else 0, self.batch_size):
            seen = [seen_volume(self.volume_BZYX[row], view) for row in rows[start : start + self.batch_size]]
            channels = np.stack([window_channels(volume, self.windows) for volume in seen])
            hidden = self.teacher(torch.from_numpy(channels).to(device), tuple(blocks)).hidden
            for block in blocks:
                parts[block].append(hidden[block])
        return {block: torch.cat(found) for block, found in parts.items()}


def seen_volume(volume_ZYX: NDArray[np.int16], view: View) -> NDArray[np.int16]:
    """The volume in this view."""
    moved = shift_volume(volume_ZYX, view.shift_zyx)
    return np.ascontiguousarray(moved[:, :, ::-1]) if view.mirrored else moved
