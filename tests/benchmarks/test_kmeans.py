"""The k-means benchmark: what it counts, and that ours is compared on the same points."""

import numpy as np
import pytest

from benchmarks import kmeans
from v2l_jax.codebook.kmeans import KMeans, fit


def test_operations_of_a_round():
    # 256·16384 points, 16,384 centres, 768 features: 1.06e14 an iteration
    assert kmeans.assignment_flops(256 * 16_384, 16_384, 768) == pytest.approx(1.06e14, rel=5e-3)


def test_ours_ends_at_the_objective_that_the_peers_are_judged_by():
    points, options = kmeans.make_points(600, 8), KMeans(5, 3, most_points=0)
    own = kmeans.engines(points, options)["ours"]()
    assert own == pytest.approx(kmeans._objective(points, fit(points, options).centres), rel=1e-5)
    assert np.isfinite(own)
