"""The bootstrap resamples patients, and its intervals cover what they promise."""

import numpy as np
import pytest

from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval, weighted_means


def test_the_studies_of_a_patient_are_drawn_together():
    patients = ["b", "a", "b", "c", "b"]
    weight = patient_weights(patients, resamples=200, rng=np.random.default_rng(0))
    assert weight.shape == (200, 5)
    assert (weight[:, 0] == weight[:, 2]).all()
    assert (weight[:, 0] == weight[:, 4]).all()
    drawn_patients = weight[:, 0] + weight[:, 1] + weight[:, 3]
    assert (drawn_patients == 3).all()
    assert len(np.unique(weight[:, 0])) > 1


def test_every_patient_is_drawn_once_on_average():
    weight = patient_weights([f"p{i}" for i in range(20)], resamples=4000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(weight.mean(axis=0), 1, atol=0.06)


def test_one_generator_gives_one_set_of_weights():
    draws = [patient_weights(["a", "b", "c"], resamples=9, rng=np.random.default_rng(7)) for _ in range(2)]
    assert (draws[0] == draws[1]).all()


def test_repeated_studies_of_one_patient_widen_the_interval():
    """Ten copies of each study hold no more information than one."""
    rng = np.random.default_rng(2)
    value = rng.normal(size=40)
    patients = [f"p{i}" for i in range(40)]

    def width(values, names):
        weight = patient_weights(names, resamples=2000, rng=np.random.default_rng(3))
        low, high = percentile_interval(weighted_means(values, weight), level=0.95)
        return high - low

    assert width(np.tile(value, 10), patients * 10) == pytest.approx(width(value, patients), rel=0.1)
    assert width(np.tile(value, 10), [f"q{i}" for i in range(400)]) < 0.5 * width(value, patients)


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(4), 0
    for _ in range(300):
        value = rng.normal(1.5, 1, 50)
        weight = patient_weights([str(i) for i in range(50)], resamples=300, rng=rng)
        low, high = percentile_interval(weighted_means(value, weight), level=0.9)
        covered += low <= 1.5 <= high
    assert 0.83 <= covered / 300 <= 0.95


def test_unknown_values_are_left_out_of_means():
    means = weighted_means([1.0, np.nan, 3.0], [[1, 1, 1], [1, 9, 0], [0, 1, 0]])
    np.testing.assert_allclose(means, [2.0, 1.0, np.nan])
    np.testing.assert_allclose(macro_means([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]), [2.0, 5.0, np.nan])


def test_the_interval_holds_the_middle_of_the_defined_values():
    values = np.concatenate([np.arange(101.0), [np.nan]])
    assert percentile_interval(values, level=0.9) == pytest.approx((5.0, 95.0))
    assert np.isnan(percentile_interval([np.nan], level=0.9)).all()
