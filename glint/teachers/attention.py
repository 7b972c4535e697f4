"""Attention in two matrix products and a softmax, tile by tile, as the other choice beside the fused kernel.

On processors the fused kernel of PyTorch gains nothing from bfloat16, the products do; but whole score matrices leave the cache (at 1,568
tokens that cost more than bfloat16 gained). Tiles of at most `TILE_SCORES` keep scores in it, and memory bounded for any number of tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TILE_SCORES = 1 << 20
"""Scores in memory at once: 2 MiB in bfloat16, what the second-level caches of two cores hold."""
TILE_ROWS = 128


def eager_attention(
    query_BHNE: Tensor,
    key_BHNE: Tensor,
    value_BHNE: Tensor,
    mask_B11N: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(query · keyᵀ · scale) · value, (B, H, N, E); `mask_B11N` is false where a key is hidden, `scale` 1 / sqrt(E) if not given."""
    batch, heads, count, width = query_BHNE.shape
    query, key, value = (one.reshape(batch * heads, -1, width) for one in (query_BHNE, key_BHNE, value_BHNE))
    query, keys = query * (width**-0.5 if scale is None else scale), key.mT
    hidden = None if mask_B11N is None else ~mask_B11N.expand(batch, heads, 1, -1).reshape(batch * heads, 1, -1)
    rows = min(count, TILE_ROWS)
    together = max(1, TILE_SCORES // (rows * key.shape[1]))
    mixed = []
    for first in range(0, batch * heads, together):
        part = slice(first, first + together)
        tiles = []
        for row in range(0, count, rows):
            scores = query[part, row : row + rows] @ keys[part]
            if hidden is not None:
                scores = scores.masked_fill(hidden[part], -math.inf)
            tiles.append(scores.softmax(dim=-1) @ value[part])
        mixed.append(torch.cat(tiles, dim=1))
    return torch.cat(mixed).reshape(batch, heads, count, width)


def transformers_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`eager_attention` in the form that `transformers` calls: the result is (B, N, H, E), and no scores are handed out."""
    if attention_mask is not None:
        raise NotImplementedError("encoders of images hide no keys")
    return eager_attention(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None
