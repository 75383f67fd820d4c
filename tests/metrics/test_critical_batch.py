"""The fit against the law it fits."""

import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.metrics.critical_batch import fit_batch_scaling

SIZES = np.array([4, 8, 16, 32, 64, 128, 256.0])


def test_exact_data_give_back_the_law():
    fit = fit_batch_scaling(SIZES, 50 * (1 + 40 / SIZES))
    assert fit.least_steps == pytest.approx(50, rel=1e-4) and fit.critical_batch == pytest.approx(
        40, rel=1e-4
    )
    assert fit.relative_error < 1e-6 and fit.interval == pytest.approx((40, 40), rel=1e-3)
    assert fit.steps(np.array([40.0])) == pytest.approx(100, rel=1e-4)  # twice the least


def test_noise_of_five_percent_moves_it_little():
    noise = np.exp(0.05 * np.random.RandomState(0).randn(len(SIZES)))
    fit = fit_batch_scaling(SIZES, 50 * (1 + 40 / SIZES) * noise)
    assert fit.critical_batch == pytest.approx(40, rel=0.3) and 0.01 < fit.relative_error < 0.1


def test_two_sizes_are_too_few():
    with pytest.raises(DataError, match="2 batch sizes"):
        fit_batch_scaling(np.array([8, 8, 16]), np.array([100.0, 110, 60]))


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.RandomState(0)
    fits = [
        fit_batch_scaling(SIZES, 50 * (1 + 40 / SIZES) * np.exp(0.1 * random.randn(len(SIZES))))
        for _ in range(400)
    ]
    share = np.mean([low < 40 < high for low, high in (fit.interval for fit in fits)])
    assert 0.92 < share < 0.98
