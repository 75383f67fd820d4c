"""FID: the published formula, closed forms, streaming, and what its row says."""

import numpy as np
import pytest
from scipy import linalg

from v2l_jax.errors import DataError
from v2l_jax.metrics.fid import (
    FeatureStatistics,
    feature_distance,
    frechet_distance,
    frechet_inception_distance,
)


def features(seed, count, size=48, rank=None):
    """Correlated vectors, not negative, as ReLU features are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((rank or size, size))
    return np.maximum(rng.standard_normal((count, rank or size)) @ mixing + seed, 0).astype(
        np.float32
    )


def published_distance(a, b):
    """The formula as FID's public implementations write it: covariances by numpy, scipy's square
    root of their product.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = a.mean(0) - b.mean(0)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(shift @ shift + np.trace(s) + np.trace(t) - 2 * np.trace(linalg.sqrtm(s @ t)).real)


@pytest.mark.parametrize("counts", [(300, 400), (60, 500)])
def test_equals_the_published_formula(counts):
    a, b = features(0, counts[0]), features(1, counts[1])
    expected = published_distance(a, b)
    assert frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b)) == pytest.approx(
        expected, rel=1e-9
    )
    assert feature_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_fewer_vectors_than_features_take_a_short_cut_to_the_same_number():
    a, b = features(0, 20), features(1, 31)
    long_way = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    assert feature_distance(a, b) == pytest.approx(long_way, rel=1e-6)


def test_closed_form_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    means, deviations = rng.standard_normal((2, 9)), rng.uniform(0, 2, (2, 9))
    deviations[0, 3] = 0  # a feature that never fires
    a, b = (FeatureStatistics(101, m, np.diag(d**2) * 100) for m, d in zip(means, deviations))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_equal_sets_have_distance_zero():
    a = features(0, 200)
    assert feature_distance(a, a) == pytest.approx(
        0, abs=1e-9 * np.trace(FeatureStatistics.of(a).covariance)
    )


def test_any_batches_in_any_order_give_the_same_statistics():
    a = features(0, 157) + np.float32(100)  # a large mean: a sum of squares would lose digits
    whole = FeatureStatistics.of(a)
    np.testing.assert_allclose(
        whole.covariance, np.cov(a.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-9
    )
    for size in (1, 10, 64):
        parts = [a[i : i + size] for i in range(0, len(a), size)]
        streamed = FeatureStatistics.of(a[:0])
        for part in reversed(parts):
            streamed = streamed.update(part)
        halves = [FeatureStatistics.of(np.concatenate(p)) for p in (parts[::2], parts[1::2]) if p]
        merged = halves[0].merge(halves[1])
        for other in (streamed, merged):
            assert other.count == whole.count
            np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-13)
            np.testing.assert_allclose(other.scatter, whole.scatter, rtol=1e-10, atol=1e-8)


def test_row_has_count_and_interval_and_warns_of_few_images(caplog):
    real, generated = features(0, 90), features(0, 90) + 0.1
    with caplog.at_level("WARNING"):
        row = frechet_inception_distance(
            real, generated, paired=True, resamples=30, seed=3, task="x"
        )
    assert "FID of 90 images is biased" in caplog.text
    assert (row.metric, row.count, row.measured_on) == ("fid", 90, {"task": "x"})
    assert row.value == pytest.approx(published_distance(real, generated), rel=1e-9)
    assert row.ci95[0] < row.value < row.ci95[1]
    assert row == frechet_inception_distance(
        real, generated, paired=True, resamples=30, seed=3, task="x"
    )
    assert frechet_inception_distance(real, generated, paired=True, resamples=0).ci95 is None


def test_interval_covers_repeated_draws():
    """Its width is the spread of FID over fresh samples."""
    draw = lambda seed: np.random.default_rng(seed).standard_normal((200, 6)).astype(np.float32)
    shifted = [draw(2 * i + 1) + np.float32(1) for i in range(60)]
    values = [feature_distance(draw(2 * i), other) for i, other in enumerate(shifted)]
    row = frechet_inception_distance(
        draw(1000), draw(1001) + np.float32(1), paired=False, resamples=200
    )
    assert (row.ci95[1] - row.ci95[0]) / 2 == pytest.approx(1.96 * np.std(values), rel=0.4)


def test_sets_too_small_or_unpaired_are_refused():
    with pytest.raises(DataError, match="at least 2 images a set, got 1"):
        frechet_inception_distance(features(0, 1), features(1, 5), paired=False)
    with pytest.raises(DataError, match="4 real and 5 generated images cannot be pairs"):
        frechet_inception_distance(features(0, 4), features(1, 5), paired=True)


@pytest.mark.parametrize("features", [3, 40])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_have_no_distance(features, value):
    good = np.random.default_rng(0).normal(size=(6, features))
    bad = good.copy()
    bad[2, 1] = value
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(DataError, match="features of 1 of 6 images are not finite"):
            feature_distance(*pair)
