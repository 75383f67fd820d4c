"""Logistic regression at its optimum, and a probe that chooses its penalty."""

import numpy as np
import pytest

from v2l_jax.metrics.probe import logistic_regression, probe


def _blobs(count, spread, seed, dim=6):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, dim))
    y = np.arange(count) % 3
    return centres[y] + rng.normal(size=(count, dim)) * spread, y


def test_two_classes_in_one_dimension_are_parted_where_the_likelihood_says():
    x = np.array([[-2.0], [-1], [0], [1], [2], [3]])
    y = np.array([4, 4, 7, 4, 7, 7])
    grid = np.stack(np.meshgrid(np.linspace(0, 4, 401), np.linspace(-4, 4, 401)), -1)
    sign = np.where(y == 7, 1, -1)
    margin = sign * (grid[..., :1] * x[:, 0] + grid[..., 1:])
    # two classes with weights w and -w: half the penalty on both is w²
    loss = np.log1p(np.exp(-2 * margin)).sum(-1) + 0.3 * grid[..., 0] ** 2
    weight, bias = grid.reshape(-1, 2)[loss.argmin()]
    line = np.linspace(-2, 3, 1001)[:, None]
    found = logistic_regression(x, y, 0.3)(line)
    assert set(found.tolist()) == {4, 7}
    assert line[found == 7].min() == pytest.approx(-bias / weight, abs=0.03)


def test_a_probe_of_blobs_is_near_the_best_there_is():
    (x, y), (new, truth) = _blobs(120, 0.8, 0), _blobs(600, 0.8, 1)
    centres = np.random.default_rng(9).normal(size=(3, 6))
    best = np.mean(np.argmin(((new[:, None] - centres) ** 2).sum(-1), 1) == truth)
    assert np.mean(probe(x, y, new, 0) == truth) > best - 0.05
    scaled = probe(x * 1e3 + 7, y, new * 1e3 + 7, 0)
    assert np.mean(scaled == probe(x, y, new, 0)) > 0.99  # units do not matter


def test_labels_that_tell_nothing_are_not_learnt():
    (x, _), (new, truth) = _blobs(120, 0.8, 0), _blobs(600, 0.8, 1)
    y = np.random.default_rng(3).integers(0, 3, 120)
    assert abs(np.mean(probe(x, y, new, 0) == truth) - 1 / 3) < 0.25
