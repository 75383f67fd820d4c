"""Counts against numpy, perplexity against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.metrics import codebook_usage


def test_counts_equal_bincount():
    indices = np.random.default_rng(0).integers(0, 7, (3, 4, 4))
    counts = jax.jit(codebook_usage.count_words, static_argnums=1)(jnp.asarray(indices), 10)
    np.testing.assert_array_equal(counts, np.bincount(indices.ravel(), minlength=10))


def test_indices_outside_the_codebook_are_not_counted():
    counts = codebook_usage.count_words(jnp.asarray([-1, -3, 0, 2, 3, 9]), 3)
    assert counts.tolist() == [1, 0, 1]


def test_summary():
    usage = codebook_usage.summarise(np.array([5, 0, 5, 0, 0, 5, 5, 0]))
    assert (usage.words, usage.tokens, usage.used, usage.fraction, usage.dead) == (
        8,
        20,
        4,
        0.5,
        (1, 3, 4, 7),
    )
    assert usage.perplexity == pytest.approx(4)
    assert codebook_usage.summarise(jnp.asarray([0, 9, 0])).perplexity == pytest.approx(1)
    # Entropy of (1/2, 1/4, 1/4) is 1.5 bits.
    assert codebook_usage.summarise(np.array([2, 1, 1])).perplexity == pytest.approx(2**1.5)


def test_nothing_counted():
    usage = codebook_usage.summarise(np.zeros(4, np.int32))
    assert usage.perplexity == 0 and usage.fraction == 0 and usage.dead == (0, 1, 2, 3)
