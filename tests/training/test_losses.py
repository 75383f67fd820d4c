"""Losses in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.training.losses import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_loss,
)


def _logits(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1)


def test_reconstruction_loss_is_the_mean_absolute_error_in_float32():
    image = jnp.zeros((1, 1, 2, 3), jnp.bfloat16)
    other = jnp.asarray([0.5, -0.25, 1, 0, 0, -1], jnp.bfloat16).reshape(1, 1, 2, 3)
    loss = reconstruction_loss(image, other)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, 2.75 / 6, rtol=1e-6)


def test_hinge_losses():
    np.testing.assert_allclose(generator_loss(_logits(1, -3)), 1.0)
    # Real scores above 1 and fake ones below -1 cost nothing.
    np.testing.assert_allclose(
        discriminator_loss(_logits(2, 0.5), _logits(-2, 0.5)), 0.5 * (0.25 + 0.75)
    )


def test_adaptive_weight():
    a, b = jnp.asarray([[3.0, 4.0]]), jnp.asarray([[0.0, 2.0]])
    np.testing.assert_allclose(adaptive_weight(a, b), 5 / 2.0001, rtol=1e-6)
    np.testing.assert_allclose(adaptive_weight(a, 0 * b), 1e4)
    np.testing.assert_allclose(adaptive_weight(1e-9 * a, 0 * b), 5e-5, rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(adaptive_weight)(a, b), np.zeros((1, 2)))
