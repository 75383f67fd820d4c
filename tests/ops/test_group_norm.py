"""GroupNorm against Flax's, values and gradients, alone and with swish after it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.ops.group_norm import GroupNorm


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 3, 96), (3, 4, 4, 32), (1, 1, 2, 64)], ids=str)
def test_values_and_gradients_equal_flaxs(swish, shape):
    random = np.random.RandomState(0)
    x = jnp.asarray(2 * random.randn(*shape) + 3, jnp.float32)
    params = {name: jnp.asarray(random.randn(shape[-1]), jnp.float32) for name in ("scale", "bias")}
    gradient = jnp.asarray(random.randn(*shape), jnp.float32)
    flaxs = nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False)

    def theirs(params, x):
        y = flaxs.apply({"params": params}, x)
        return nn.swish(y) if swish else y

    def ours(params, x):
        return GroupNorm(swish=swish).apply({"params": params}, x)

    (expected, pull_theirs), (found, pull_ours) = (
        jax.vjp(theirs, params, x),
        jax.vjp(ours, params, x),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        jax.tree.leaves(pull_ours(gradient)), jax.tree.leaves(pull_theirs(gradient))
    ):
        np.testing.assert_allclose(
            one, other, rtol=1e-4, atol=2e-5 * float(jnp.abs(other).max()) + 1e-6
        )


def test_types_are_those_asked_for_and_statistics_float32():
    """The mean of many bfloat16 numbers that are nearly alike would be lost in bfloat16."""
    x = (256 + jnp.tile(jnp.array([0.0, 2.0]), 64 * 64 * 16).reshape(1, 64, 64, 32)).astype(
        jnp.bfloat16
    )
    params = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
    x = x.at[:, ::2].add(2)  # so that no group is constant
    result, pull_back = jax.vjp(
        lambda x: GroupNorm(jnp.bfloat16, swish=True).apply({"params": params}, x), x
    )
    assert result.dtype == jnp.bfloat16 and pull_back(result)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.unique(result.astype(jnp.float32)), nn.swish(jnp.array([-1.0, 1.0])), rtol=5e-3
    )


def test_backward_pass_keeps_the_input_and_no_other_image():
    x, params = jnp.ones((2, 16, 16, 64)), {"scale": jnp.ones(64), "bias": jnp.ones(64)}
    _, pull_back = jax.vjp(lambda x: GroupNorm(swish=True).apply({"params": params}, x), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull_back)) < 1.1 * x.size
