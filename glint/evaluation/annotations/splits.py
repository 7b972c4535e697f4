"""Published divisions that are a recipe rather than a list: MGCA's of SIIM and RSNA."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import InputError

RSNA_HELD_OUT = 5337


def _shuffled(num: int, num_held_out: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Kept and held-out places as scikit-learn's `train_test_split(random_state=0)` draws them, in its order."""
    order = np.random.RandomState(0).permutation(num)
    return order[num_held_out:], order[:num_held_out]


def mgca_row_splits(num_rows: int, *, held_out: float | int) -> list[str]:
    """Split of every row: `held_out` rows, or that share of them, are halved into test and validation.

    Source: MGCA's preprocessing, two calls of `train_test_split` with random_state 0; the second keeps the test part.
    """
    count = math.ceil(held_out * num_rows) if isinstance(held_out, float) else held_out
    _, rest = _shuffled(num_rows, count)
    test, validation = _shuffled(len(rest), math.ceil(0.5 * len(rest)))
    splits = np.full(num_rows, "train", dtype=object)
    splits[rest[test]], splits[rest[validation]] = "test", "validation"
    return [str(one) for one in splits]


def mgca_splits(name: str, images: Sequence[str]) -> dict[str, str]:
    """Image → split. `images`: one per row of the published table, in its order.

    SIIM is divided by row, so that an image with several parts may lie in two splits there; here it lies in the one that is held out
    furthest (test, then validation), with all of its parts. RSNA is divided by image, 5,337 for test and as many for validation.
    """
    if name == "rsna":
        unique = sorted(set(images))
        if len(unique) <= 2 * RSNA_HELD_OUT:
            raise InputError(
                f"MGCA's division is of RSNA's 26,684 films; {len(unique)} are here: download the whole table"
            )
        return dict(zip(unique, mgca_row_splits(len(unique), held_out=2 * RSNA_HELD_OUT), strict=True))
    order = {"train": 0, "validation": 1, "test": 2}
    found: dict[str, str] = {}
    for image, split in zip(images, mgca_row_splits(len(images), held_out=0.3), strict=True):
        found[image] = max(found.get(image, split), split, key=order.__getitem__)
    return found
