"""The randomisation test against scipy's, and its patients."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from glint.metrics.paired import sign_flip_p


def test_the_exact_p_equals_scipys_for_single_studies():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.4, 1, 11), rng.normal(0, 1, 11)
    oracle = permutation_test(
        (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=10**5
    )
    assert sign_flip_p(first, second, [str(i) for i in range(11)], flips=4096, seed=0) == pytest.approx(oracle.pvalue)


def test_random_exchanges_come_near_the_exact_p():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.3, 1, 12), rng.normal(0, 1, 12)
    names = [str(i) for i in range(12)]
    exact = sign_flip_p(first, second, names, flips=5000, seed=0)
    assert sign_flip_p(first, second, names, flips=4000, seed=0) == pytest.approx(exact, abs=0.03)


def test_studies_of_one_patient_are_exchanged_together():
    first, second = np.array([1.0, 1.0, 1.0, 1.0, np.nan]), np.zeros(5)
    assert sign_flip_p(first, second, ["a", "a", "a", "a", "b"], flips=100, seed=0) == 1.0
    assert sign_flip_p(first, second, list("abcde"), flips=100, seed=0) == 2 / 16
    assert np.isnan(sign_flip_p([np.nan], [0.0], ["a"], flips=10, seed=0))
