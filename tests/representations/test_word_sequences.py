"""Sequences of visual words, against small cases by hand and a loop written out."""

import numpy as np
import pytest

from v2l_jax.representations import word_sequences as sequences

WORDS = np.array([3, 3, 1, 3, 1, 1])


def test_order_run_length_and_bag():
    assert sequences.in_order(WORDS) == [(3, (0,)), (3, (1,)), (1, (2,)), (3, (3,)), (1, (4,)),
                                         (1, (5,))]  # fmt: skip
    assert sequences.run_length(WORDS) == [(3, (0, 1)), (1, (2,)), (3, (3,)), (1, (4, 5))]
    assert sequences.bag(WORDS) == [(1, (2, 4, 5)), (3, (0, 1, 3))]
    assert sequences.bag(np.array([7, 2, 7, 7])) == [(7, (0, 2, 3)), (2, (1,))]
    assert sequences.run_length(np.array([0])) == [(0, (0,))]


def _divt(features, threshold):
    """The published algorithm in loops: owners of patches."""
    unit = [f / np.linalg.norm(f) for f in features]
    alike = [[float(a @ b) for b in unit] for a in unit]
    degree = [sum(s > threshold for s in row) for row in alike]
    left, picked = set(range(len(unit))), []
    while left:
        best = max(sorted(left), key=lambda i: degree[i])
        picked.append(best)
        left -= {j for j in left if alike[best][j] > threshold} | {best}
    picked.sort()
    owner = [
        picked.index(i) if i in picked else int(np.argmax([row[c] for c in picked]))
        for i, row in enumerate(alike)
    ]
    return [tuple(i for i, o in enumerate(owner) if o == c) for c in range(len(picked))]


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.75, 1.0])
def test_clusters_are_those_of_the_published_loop(threshold):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 6))[rng.integers(4, size=25)] + 0.4 * rng.normal(size=(25, 6))
    features = features.astype(np.float32)
    means = []

    def nearest(rows):
        means.append(rows)
        return np.arange(len(rows)) + 10

    found = sequences.clusters(features, threshold, nearest)
    expected = _divt(features, threshold)
    assert [cells for _, cells in found] == expected
    assert [word for word, _ in found] == list(range(10, 10 + len(expected)))
    np.testing.assert_allclose(
        means[0], [features[list(cells)].mean(0) for cells in expected], rtol=1e-5
    )


def test_boxes():
    assert sequences.boxes((0, 5), (2, 4)) == [(0, 0, 0.25, 0.5), (0.25, 0.5, 0.5, 1)]
