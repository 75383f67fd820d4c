"""Unit vectors against numpy in float64, at zero and elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.ops.unit_vectors import reciprocal_lengths, unit_features, unit_vectors


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)


def test_all_forms_give_the_direction(vectors):
    exact = vectors.astype(np.float64)
    exact /= np.sqrt((exact**2).sum(-1, keepdims=True))
    host, device = unit_vectors(vectors), jax.jit(unit_vectors)(vectors)
    assert isinstance(host, np.ndarray) and isinstance(device, jax.Array)
    for found in (
        host,
        device,
        unit_features(jnp.asarray(vectors)),
        vectors * reciprocal_lengths(jnp.asarray(vectors)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-7)


def test_zeros():
    zeros = np.zeros((2, 4), np.float32)
    assert np.isnan(unit_vectors(jnp.asarray(zeros))).all()
    np.testing.assert_array_equal(unit_vectors(zeros, shortest=1e-30), zeros)
    np.testing.assert_array_equal(unit_features(jnp.asarray(zeros)), zeros)
    np.testing.assert_allclose(reciprocal_lengths(jnp.asarray(zeros)), 1e6, rtol=1e-6)
    gradient = jax.grad(lambda x: unit_features(x)[0, 0])(jnp.asarray(zeros))
    assert np.isfinite(gradient).all()
