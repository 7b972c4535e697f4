"""Intervals by resampling patients: two studies of one patient are not two independent observations."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def patient_weights(patient_N: Sequence[str], *, resamples: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(R, N) how often each resample draws the patient of each study; a patient's studies come and go together.

    As many patients are drawn, with replacement, as there are. Source: the cluster bootstrap (Field and Welsh 2007).
    """
    patients, patient_of_N = np.unique(np.asarray(patient_N, dtype=str), return_inverse=True)
    if not len(patients):
        return np.zeros((resamples, 0), np.uint16)
    drawn_RP = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=resamples)
    return np.asarray(drawn_RP[:, patient_of_N], dtype=np.uint16)


def weighted_means(value_N: ArrayLike, weight_RN: ArrayLike) -> Floats:
    """(R,) means of the values that are not NaN; NaN for a resample without any."""
    value = np.asarray(value_N, dtype=np.float64)
    known = ~np.isnan(value)
    weight = np.atleast_2d(np.asarray(weight_RN, dtype=np.float64))[:, known]
    total_R = weight.sum(axis=1)
    return np.asarray(np.divide(weight @ value[known], total_R, out=np.full(len(weight), np.nan), where=total_R > 0))


def macro_means(value_FR: ArrayLike) -> Floats:
    """(R,) means over findings that are defined in the resample; NaN where none is."""
    value = np.asarray(value_FR, dtype=np.float64)
    known = ~np.isnan(value)
    count_R = known.sum(axis=0)
    total_R = np.where(known, value, 0.0).sum(axis=0)
    return np.asarray(np.divide(total_R, count_R, out=np.full(value.shape[1], np.nan), where=count_R > 0))


def percentile_interval(value_R: ArrayLike, *, level: float) -> tuple[float, float]:
    """Percentile interval that holds `level` of the defined resamples; (NaN, NaN) where none is."""
    value = np.asarray(value_R, dtype=np.float64)
    value = value[~np.isnan(value)]
    if not value.size:
        return float("nan"), float("nan")
    low, high = np.quantile(value, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
