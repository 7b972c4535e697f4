"""Which studies and which sentences make up a batch: pure functions of seed and step, so a resumed run repeats them."""

import math

import numpy as np
from numpy.typing import NDArray

from glint.core.seeds import generator


def repeats_of(present_BF: NDArray[np.bool_], *, below: float) -> NDArray[np.float64]:
    """(B,) how often a study comes per epoch: max over its findings of sqrt(below / share of studies with it), at least 1.

    Source: repeat-factor sampling (Gupta et al., LVIS, CVPR 2019).
    """
    share_F = present_BF.mean(axis=0)
    factor_F = np.sqrt(below / np.where(share_F > 0, share_F, 1.0))
    return np.asarray(np.maximum(1.0, np.where(present_BF, factor_F, 0.0).max(axis=1, initial=0.0)))


def epoch_length(repeats_B: NDArray[np.float64]) -> int:
    """Studies of one epoch; rounded up, so that a study of repeats 1 is never passed over."""
    return math.ceil(float(repeats_B.sum()) - 1e-9)


def epoch_order(repeats_B: NDArray[np.float64], *, epoch: int, seed: int) -> NDArray[np.int64]:
    """(N,) rows of one epoch, N = the sum of repeats, rounded up, whatever the epoch.

    A study with repeats r comes floor(r) or ceil(r) times, r on average (systematic resampling), spread evenly.
    """
    rng = generator(seed, "epoch", epoch)
    total = epoch_length(repeats_B)
    shuffled = rng.permutation(len(repeats_B))
    edges = np.cumsum(repeats_B[shuffled]) * (total / repeats_B.sum())
    edges[-1] = total
    drawn = np.searchsorted(edges, rng.random() + np.arange(total), side="right")
    rows = shuffled[np.minimum(drawn, len(shuffled) - 1)]
    counts = np.bincount(rows, minlength=len(repeats_B))
    copy = np.arange(total) - np.repeat(np.cumsum(counts[shuffled]) - counts[shuffled], counts[shuffled])
    place = (rng.random(len(repeats_B))[rows] + copy) / counts[rows]
    return np.asarray(rows[np.argsort(place, kind="stable")], dtype=np.int64)


def batch_rows(
    *, studies: int, batch_size: int, step: int, seed: int, repeats_B: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """(B,) rows of the studies of `step`: a new order per epoch, its incomplete last batch left out.

    Without `repeats_B` every study comes once an epoch.
    """
    size = min(batch_size, studies)
    shown = studies if repeats_B is None else epoch_length(repeats_B)
    epoch, position = divmod(step, shown // size)
    if repeats_B is None:
        order = generator(seed, "epoch", epoch).permutation(studies)
    else:
        order = epoch_order(repeats_B, epoch=epoch, seed=seed)
    return np.asarray(order[position * size : (position + 1) * size], dtype=np.int64)


def sentence_draw(rows_T: NDArray[np.int64], *, limit: int, step: int, seed: int) -> NDArray[np.int64]:
    """At most `limit` of the query rows, in their order; a seeded draw where there are more."""
    if len(rows_T) <= limit:
        return rows_T
    kept = generator(seed, "sentences", step).choice(len(rows_T), size=limit, replace=False)
    return rows_T[np.sort(kept)]
