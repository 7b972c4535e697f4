"""Is one model better than another on the same patients?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def sign_flip_p(first_N: ArrayLike, second_N: ArrayLike, patient_N: Sequence[str], *, flips: int, seed: int) -> float:
    """Two-sided p of the mean difference, under exchange of the two models patient by patient; NaN without a pair.

    Cases in which either value is NaN are left out. All 2^n exchanges are tried where they are no more than `flips`,
    else so many random ones, with the observed one counted among them. Source: Fisher's randomisation test.
    """
    gap = np.asarray(first_N, np.float64) - np.asarray(second_N, np.float64)
    known = ~np.isnan(gap)
    patients, place = np.unique(np.asarray(patient_N, dtype=str)[known], return_inverse=True)
    if not len(patients):
        return float("nan")
    total_P = np.bincount(place, weights=gap[known])
    observed = abs(total_P.sum())
    num = len(patients)
    if 2**num <= flips:
        sign_RP = 1 - 2 * (np.arange(2**num)[:, None] >> np.arange(num) & 1)
        return float((np.abs(sign_RP @ total_P) >= observed - 1e-12).mean())
    sign_RP = np.random.default_rng(seed).choice((-1, 1), size=(flips, num))
    return float((1 + (np.abs(sign_RP @ total_P) >= observed - 1e-12).sum()) / (flips + 1))
