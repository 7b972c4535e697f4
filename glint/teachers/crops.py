"""Teacher tokens for a student that sees another part of the volume: an exact slice, or interpolation at its patch centres.

Patch p of an axis has its centre at voxel (p + 1/2) · edge; a crop that starts at a multiple of the patch is a slice of the tokens. Elsewhere the
tokens are interpolated linearly between centres (`align_corners=False` in the terms of resampling); a student's patch whose
centre lies outside the teacher's canvas has no token: validity 0. The teacher saw the whole volume, more than the student does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int, int]


def aligned_slices(grid: Size, patch_zyx: Size, start_zyx: Sequence[int], crop_grid: Size) -> tuple[slice, ...] | None:
    """Token slices (z, y, x) of a crop that starts at voxel `start_zyx`; None where it cuts patches or leaves the canvas."""
    slices = []
    for size, edge, start, count in zip(grid, patch_zyx, start_zyx, crop_grid, strict=True):
        first, rest = divmod(start, edge)
        if rest or first < 0 or first + count > size:
            return None
        slices.append(slice(first, first + count))
    return tuple(slices)


def crop_tokens(
    tokens_BPD: Tensor, grid: Size, patch_zyx: Size, start_zyx: Sequence[int], crop_grid: Size
) -> tuple[Tensor, Tensor]:
    """Tokens (B, P', D) of a crop of `crop_grid` patches from voxel `start_zyx` on, and which are valid (P',)."""
    batch, _, width = tokens_BPD.shape
    tokens_BZYXD = tokens_BPD.reshape(batch, *grid, width)
    slices = aligned_slices(grid, patch_zyx, start_zyx, crop_grid)
    if slices is not None:
        cut = tokens_BZYXD[(slice(None), *slices)].reshape(batch, -1, width)
        return cut, torch.ones(cut.shape[1], dtype=torch.bool, device=cut.device)
    valid = torch.ones(crop_grid, dtype=torch.bool)
    for axis, (size, edge, start, count) in enumerate(zip(grid, patch_zyx, start_zyx, crop_grid, strict=True)):
        # Places of the student's centres in the teacher's token indices.
        place = torch.arange(count, dtype=torch.float64) + start / edge
        inside = (place + 0.5 >= 0) & (place + 0.5 <= size)
        shape = [1, 1, 1]
        shape[axis] = count
        valid &= inside.reshape(shape)
        near = place.clamp(0, size - 1)  # between the outermost centre and the rim: the outermost token
        low = near.floor().long().clamp(max=max(0, size - 2))
        share = (near - low).to(tokens_BZYXD.dtype).to(tokens_BZYXD.device)
        high = (low + 1).clamp(max=size - 1)
        low, high = low.to(tokens_BZYXD.device), high.to(tokens_BZYXD.device)
        weight = share.reshape([-1 if dim == axis + 1 else 1 for dim in range(5)])
        below, above = tokens_BZYXD.index_select(axis + 1, low), tokens_BZYXD.index_select(axis + 1, high)
        tokens_BZYXD = below * (1 - weight) + above * weight
    return tokens_BZYXD.reshape(batch, -1, width), valid.reshape(-1).to(tokens_BPD.device)


def moved_tokens(tokens_BPD: Tensor, grid: Size, patch_zyx: Size, shift_zyx: Size) -> tuple[Tensor, Tensor]:
    """Tokens for a student that sees the whole volume moved by `shift_zyx` voxels, and which are valid (P,)."""
    return crop_tokens(tokens_BPD, grid, patch_zyx, [-step for step in shift_zyx], grid)
