"""Which studies and which sentences make up a batch: pure functions of seed and step, so a resumed run repeats them."""

import numpy as np
from numpy.typing import NDArray

from glint.core.seeds import generator


def batch_rows(*, studies: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """(B,) rows of the studies of `step`: a new permutation per epoch, its incomplete last batch left out."""
    size = min(batch_size, studies)
    epoch, position = divmod(step, studies // size)
    order = generator(seed, "epoch", epoch).permutation(studies)
    return np.asarray(order[position * size : (position + 1) * size], dtype=np.int64)


def sentence_draw(rows_T: NDArray[np.int64], *, limit: int, step: int, seed: int) -> NDArray[np.int64]:
    """At most `limit` of the query rows, in their order; a seeded draw where there are more."""
    if len(rows_T) <= limit:
        return rows_T
    kept = generator(seed, "sentences", step).choice(len(rows_T), size=limit, replace=False)
    return rows_T[np.sort(kept)]
