"""Mini-batch, nested, product, per-class and task-weighted k-means."""

import numpy as np
import pytest

from v2l_jax.codebook import kmeans_variants as variants
from v2l_jax.codebook.kmeans import KMeans, fit
from v2l_jax.codebook.nearest_centres import assign
from v2l_jax.errors import DataError

ZERO = np.zeros(2)


def _grid(count=4000, seed=0):
    """Four far groups of four near spots each, in the plane."""
    rng = np.random.default_rng(seed)
    far, near = rng.integers(4, size=count), rng.integers(4, size=count)
    corner = lambda i: np.stack([i % 2, i // 2], 1)
    spots = 100 * corner(far) + 5 * corner(near)
    return (spots + rng.normal(size=(count, 2)) * 0.3).astype(np.float32), far, near


def test_batches_come_near_the_whole_iteration():
    points, _, _ = _grid()
    options = KMeans(16, start="k-means++", most_points=0, seed=1)
    whole = fit(points, options).objectives[-1]
    found = variants.fit_in_batches(points, options, batch_size=500, epochs=3)
    assert found.objectives[-1] < 1.1 * whole
    assert found.counts.sum() == len(points)


def test_one_batch_moves_a_centre_to_the_mean_of_all_it_had():
    points = np.array([[0.0, 0], [2, 0], [4, 0], [10, 0]], np.float32)
    found = variants.fit_in_batches(points, KMeans(1, seed=0), batch_size=2)
    np.testing.assert_allclose(found.centres, [[4, 0]])


def test_nested_words_know_the_coarser_ones():
    points, far, near = _grid()
    levels = variants.fit_nested(
        points, (4, 4), KMeans(0, start="k-means++", restarts=3, most_points=0)
    )
    coarse = variants.descend(points, [levels[0].centres], ZERO)
    fine = variants.descend(points, [level.centres for level in levels], ZERO)
    np.testing.assert_array_equal(fine // 4, coarse)
    assert len({*zip(far, coarse)}) == 4
    assert len({*zip(far, near, fine)}) == 16
    with pytest.raises(DataError, match="too few for 5000"):
        variants.fit_nested(points, (4, 5000), KMeans(0))


def test_product_is_k_means_of_each_part():
    points = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    both = variants.fit_product(points, 2, KMeans(5, seed=3))
    second = fit(np.ascontiguousarray(points[:, 3:]), KMeans(5, seed=4))
    np.testing.assert_array_equal(both[1].centres, second.centres)
    with pytest.raises(DataError, match="cannot be cut into 4"):
        variants.fit_product(points, 4, KMeans(5))


def test_each_class_has_its_own_centres():
    points, far, _ = _grid()
    far = np.where(np.arange(len(far)) < 100, -1, far)
    found = variants.fit_per_class(points, far, KMeans(10, most_points=0, seed=2))
    owner, _ = assign(found.centres, np.array([[2.5, 2.5], [102.5, 2.5], [2.5, 102.5], [102.5] * 2],
                      np.float32), ZERO)  # fmt: skip
    np.testing.assert_array_equal(np.bincount(owner), [3, 3, 2, 2])
    assert found.counts.sum() == len(points) - 100
    with pytest.raises(DataError, match="cannot be shared out to 4"):
        variants.fit_per_class(points, far, KMeans(3))


def test_weights_follow_the_class():
    rng, labels = np.random.default_rng(0), np.arange(40_000) % 2
    told = labels + rng.normal(size=40_000)
    points = np.stack([told, rng.normal(size=40_000), np.ones(40_000)], 1)
    weights = variants.class_weights(points, labels)
    assert weights[0] == pytest.approx(0.5, abs=0.05)  # variance 1/4 between, 1 within
    assert weights[1] < 0.1 and weights[2] == 0


def test_health():
    points, far, _ = _grid()
    found = fit(points, KMeans(4, start="k-means++", restarts=3))
    near, objective = assign(points, found.centres, ZERO)
    means = np.stack([points[near == c].mean(0) for c in range(4)])
    expected = 1 - np.sum((points - means[near]) ** 2) / np.sum((points - points.mean(0)) ** 2)
    assert variants.explained_variance(objective, points) == pytest.approx(expected, abs=1e-3)
    assert variants.stability(near, far, 4) == 1
    half = np.where(np.arange(len(near)) % 2, near, 0)
    assert variants.stability(half, half[::-1], 4) < 1
