"""Held-out splits: complete, balanced, and tied to content."""

import numpy as np
import pytest

from v2l_jax.data.splits import split_held_out

LABELS = np.repeat([0, 1, 2], [100, 7, 1])


def test_every_class_is_split_by_the_fraction():
    kept, held_out = split_held_out(LABELS, 0.3, seed=0)
    assert sorted([*kept, *held_out]) == list(range(108)) and (np.diff(held_out) > 0).all()
    assert np.bincount(LABELS[held_out], minlength=3).tolist() == [30, 2, 0]


@pytest.mark.parametrize(
    "fraction, counts",
    [(0.0, (0, 0, 0)), (1.0, (100, 7, 1)), (0.01, (1, 1, 0)), (0.99, (99, 6, 1))],
)
def test_extremes(fraction, counts):
    _, held_out = split_held_out(LABELS, fraction, seed=0)
    assert tuple(np.bincount(LABELS[held_out], minlength=3)) == counts


def test_content_keys_make_the_split_independent_of_order():
    keys = [f"hash{i}" for i in range(108)]
    order = np.random.default_rng(0).permutation(108)
    _, held_out = split_held_out(LABELS, 0.4, seed=3, keys=keys)
    _, shuffled = split_held_out(LABELS[order], 0.4, seed=3, keys=[keys[i] for i in order])
    assert {keys[i] for i in held_out} == {keys[order[i]] for i in shuffled}


def test_seeds_differ():
    assert set(split_held_out(LABELS, 0.5, seed=0)[1]) != set(
        split_held_out(LABELS, 0.5, seed=1)[1]
    )
