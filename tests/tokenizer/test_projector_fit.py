"""The fitted projector carries the words' mean and covariance onto the features'."""

import jax.numpy as jnp
import numpy as np

from v2l_jax.tokenizer.projector_fit import fit_projector


def sample(rng, count, dim):
    return rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def test_moments_of_projected_words_are_those_of_the_features():
    rng = np.random.default_rng(0)
    words, features = sample(rng, 400, 12), 0.1 * sample(rng, 900, 12)
    fitted = fit_projector(jnp.asarray(words, jnp.float32), jnp.asarray(features, jnp.float32))
    projected = words @ np.asarray(fitted["kernel"], np.float64) + np.asarray(fitted["bias"], np.float64)
    np.testing.assert_allclose(projected.mean(0), features.mean(0), atol=2e-5)
    np.testing.assert_allclose(np.cov(projected.T), np.cov(features.T), atol=1e-3 * np.cov(features.T).max())


def test_features_on_fewer_axes_than_dimensions_stay_finite():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 6))
    fitted = fit_projector(jnp.asarray(flat, jnp.float32), jnp.asarray(sample(rng, 80, 6), jnp.float32))
    assert all(np.isfinite(np.asarray(value)).all() for value in fitted.values())
