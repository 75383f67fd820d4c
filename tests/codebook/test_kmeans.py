"""k-means against loops written out; on any number of devices; interrupted; exact sums."""

import dataclasses

import jax
import numpy as np
import pytest

from v2l_jax.codebook import kmeans
from v2l_jax.codebook.kmeans import KMeans, add_rows, fit, sample, split_empty
from v2l_jax.errors import DataError
from v2l_jax.parallel.mesh import make_mesh

OPTIONS = KMeans(clusters=6, iterations=5, most_points=0, seed=3)


def _points(count=700, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    spots = rng.normal(size=(9, dim)) * 4 + 100
    return (spots[rng.integers(9, size=count)] + rng.normal(size=(count, dim))).astype(np.float32)


def _lloyd(points, centres, iterations, spherical=False):
    """The iteration in float64 loops; centres never run empty on these points."""
    points, centres = points.astype(np.float64), centres.astype(np.float64)
    for i in range(iterations + 1):
        squares = np.array([[np.sum((p - c) ** 2) for c in centres] for p in points])
        near, objective = squares.argmin(1), squares.min(1).sum()
        if i < iterations:
            centres = np.stack([points[near == c].mean(0) for c in range(len(centres))])
            if spherical:
                centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres, near, objective


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_lloyd_is_that_of_a_loop(start, spherical):
    points = _points()
    if spherical:
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
    options = dataclasses.replace(OPTIONS, start=start, spherical=spherical)
    first = kmeans.start(points, options, np.random.default_rng((3, 0, 0)))
    centres, near, objective = _lloyd(points, first, 5, spherical)
    found = fit(points, options)
    np.testing.assert_allclose(found.centres, centres, rtol=1e-5)
    np.testing.assert_array_equal(found.counts, np.bincount(near, minlength=6))
    assert found.objectives[-1] == pytest.approx(objective, rel=1e-4)
    assert np.all(np.diff(found.objectives) <= 1e-3)


@pytest.mark.mesh
def test_the_same_on_one_device_and_on_eight():
    assert jax.device_count() == 8
    one, eight = fit(_points(), OPTIONS), fit(_points(), OPTIONS, make_mesh({"data": 8}))
    np.testing.assert_array_equal(one.centres, eight.centres)
    np.testing.assert_array_equal(one.counts, eight.counts)
    assert one.objectives == eight.objectives


def test_an_interrupted_run_ends_like_a_whole_one(tmp_path, monkeypatch):
    options = dataclasses.replace(OPTIONS, restarts=2)
    whole, calls = fit(_points(), options), []

    class Stops(kmeans.CentredPoints):
        def nearest(self, centres):
            calls.append(centres)
            if len(calls) == 9:  # in the second restart
                raise KeyboardInterrupt
            return super().nearest(centres)

    monkeypatch.setattr(kmeans, "CentredPoints", Stops)
    with pytest.raises(KeyboardInterrupt):
        fit(_points(), options, state=tmp_path / "state.npz")
    resumed = fit(_points(), options, state=tmp_path / "state.npz")
    assert len(calls) == 2 * 6 + 1
    np.testing.assert_array_equal(whole.centres, resumed.centres)
    assert whole.objectives == resumed.objectives
    again = fit(_points(), options, state=tmp_path / "state.npz")
    np.testing.assert_array_equal(whole.centres, again.centres)
    other = fit(_points(seed=1), options, state=tmp_path / "state.npz")
    np.testing.assert_array_equal(other.centres, fit(_points(seed=1), options).centres)


def test_the_best_of_several_starts_is_kept():
    runs = [
        fit(_points(), dataclasses.replace(OPTIONS, restarts=n)).objectives[-1] for n in (1, 2, 4)
    ]
    assert runs[0] >= runs[1] >= runs[2]


def test_sums_do_not_stop_at_two_to_the_24():
    """Float32 adds 1 to 2²⁴ in vain."""
    rows = np.ones((40_000, 1), np.float32)
    rows[0] = 2**24
    assert np.cumsum(rows, dtype=np.float32)[-1] == 2**24
    sums = np.zeros((1, 1))
    add_rows(sums, rows, np.zeros(len(rows), np.int32))
    assert sums[0, 0] == 2**24 + 39_999
    found = fit(np.concatenate([rows, -rows]), KMeans(1, iterations=1, most_points=0))
    assert abs(found.centres[0, 0]) < 1e-6
    assert found.objectives[-1] == pytest.approx(2 * (2.0**48 + 39_999), rel=1e-7)


def test_an_empty_centre_takes_half_of_another():
    centres, counts = np.array([[2.0, 4.0], [0.0, 0.0], [9.0, 9.0]]), np.array([9.0, 0, 1])
    assert split_empty(centres, counts, np.random.default_rng(0)) == 1
    # the only donor with more than one point
    up, down = 1 + 1 / 1024, 1 - 1 / 1024
    np.testing.assert_allclose(centres, [[2 * down, 4 * up], [2 * up, 4 * down], [9, 9]])
    np.testing.assert_array_equal(counts, [4.5, 4.5, 1])


def test_centres_that_lose_all_points_come_back():
    points = np.concatenate([np.zeros((50, 2)), np.ones((50, 2)), [[5.0, 5.0]]]).astype(np.float32)
    found = fit(points, KMeans(3, iterations=25, most_points=0, seed=4))
    assert (found.counts > 0).all() and found.objectives[-1] < 1e-3


def test_points_a_centre_are_bounded():
    rows = sample(np.arange(500)[:, None], 100, seed=1)
    assert len(rows) == len(np.unique(rows)) == 100 and (np.diff(rows[:, 0]) > 0).all()
    assert sample(rows, 0, 1) is rows and sample(rows, 100, 1) is rows


def test_what_cannot_work_is_said():
    with pytest.raises(DataError, match="5 points are too few for 6 centres"):
        fit(_points(5), OPTIONS)
    bad = _points()
    bad[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit(bad, OPTIONS)
