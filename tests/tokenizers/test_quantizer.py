"""The straight-through estimator and the quantizer's loss in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.tokenizers.quantizer import quantize


def _random(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def test_loss_and_gradients():
    features, vectors = _random(0, 2, 3, 3, 4), _random(1, 2, 3, 3, 4)
    ids = jnp.zeros((2, 3, 3), jnp.int32)
    target = _random(2, 2, 3, 3, 4)

    def loss(features, vectors):
        result = quantize(features, ids, vectors, codebook_weight=0.33)
        return result.loss + jnp.sum(result.vectors * target)

    value = quantize(features, ids, vectors, 0.33).loss
    np.testing.assert_allclose(
        value, 1.33 * np.mean((np.asarray(features) - np.asarray(vectors)) ** 2), rtol=1e-6
    )
    to_features, to_vectors = jax.grad(loss, argnums=(0, 1))(features, vectors)
    difference = np.asarray(features - vectors)
    np.testing.assert_allclose(
        to_features, 2 * difference / difference.size + target, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        to_vectors, -0.33 * 2 * difference / difference.size, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(
        quantize(features, ids, vectors).vectors, vectors, rtol=1e-6, atol=1e-6
    )
