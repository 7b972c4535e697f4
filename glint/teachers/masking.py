"""Which patches the context encoder may see: multi-block masks on the patch grid.

Blocks hide whole neighbourhoods, so that a hidden patch can't be guessed from the one beside it (V-JEPA, section 3).
Every volume keeps exactly the same number of tokens, so that batches are rectangular.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def visible_count(grid: tuple[int, int, int], masked_fraction: float) -> int:
    """Tokens that stay visible: at least one stays and at least one is hidden."""
    tokens = int(np.prod(grid))
    return min(max(1, tokens - round(tokens * masked_fraction)), tokens - 1)


def block_mask(
    rng: np.random.Generator, grid: tuple[int, int, int], *, masked_fraction: float, block_fraction: tuple[float, float]
) -> Indices:
    """Visible token indices (K,) in ascending order, K = visible_count.

    Boxes whose edges are a uniformly drawn share (`block_fraction`, lower and upper) of the grid's edge hide patches until
    enough are hidden, every place as readily as any other; of the last box only as many, drawn at random, as are still needed.
    """
    wanted = int(np.prod(grid)) - visible_count(grid, masked_fraction)
    hidden_ZYX = np.zeros(grid, np.bool_)
    while (missing := wanted - int(hidden_ZYX.sum())) > 0:
        fresh = np.flatnonzero((_random_box(rng, grid, block_fraction) & ~hidden_ZYX).ravel())
        hidden_ZYX.ravel()[rng.permutation(fresh)[:missing]] = True
    return np.flatnonzero(~hidden_ZYX.ravel()).astype(np.int64)


def _random_box(rng: np.random.Generator, grid: tuple[int, int, int], block_fraction: tuple[float, float]) -> Booleans:
    box_ZYX = np.zeros(grid, np.bool_)
    spans = []
    for size in grid:
        edge = min(size, max(1, round(size * rng.uniform(*block_fraction))))
        # Boxes stick out of the grid: confined to it, they would hide its centre always and its corners hardly ever.
        start = int(rng.integers(1 - edge, size))
        spans.append(slice(max(0, start), start + edge))
    box_ZYX[tuple(spans)] = True
    return box_ZYX


def distance_to_hidden(grid: tuple[int, int, int], visible_K: Indices) -> NDArray[np.float32]:
    """(N,) distance in patches from every token to the nearest hidden one; 0 for hidden tokens."""
    from scipy.ndimage import distance_transform_edt

    visible_ZYX = np.zeros(grid, np.bool_)
    visible_ZYX.ravel()[visible_K] = True
    distance: NDArray[np.float32] = distance_transform_edt(visible_ZYX).ravel().astype(np.float32)
    return distance


def loss_weights(grid: tuple[int, int, int], visible_K: Indices, *, visible_weight: float) -> NDArray[np.float32]:
    """(N,) weight of every token in the dense loss.

    1 for hidden tokens; visible_weight / sqrt(distance to the nearest hidden token) for visible ones: next to a hole the
    context must agree with what is predicted into it, far from holes copying is easy and teaches less (V-JEPA 2.1).
    """
    distance = distance_to_hidden(grid, visible_K)
    weights = np.where(distance == 0, 1.0, visible_weight / np.sqrt(np.maximum(distance, 1.0)))
    return weights.astype(np.float32)
