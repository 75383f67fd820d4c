"""A batch in parts, against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.training.accumulation import accumulate


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_means_rows_and_carry(parts):
    rows = np.random.RandomState(0).randn(6, 4).astype("float32")
    weights = jnp.arange(4.0)

    def function(carry, part):
        value, gradient = jax.value_and_grad(lambda w: jnp.mean((part["x"] @ w) ** 2))(weights)
        return carry + part["x"].sum(), {"loss": value, "gradient": gradient}, 2 * part["x"]

    batch = {"x": jnp.asarray(rows)}
    carry, means, doubled = jax.jit(accumulate, static_argnums=(0, 3))(
        function, jnp.float32(1), batch, parts
    )
    np.testing.assert_allclose(carry, 1 + rows.sum(), rtol=1e-5)
    np.testing.assert_array_equal(doubled, 2 * rows)
    np.testing.assert_allclose(means["loss"], np.mean((rows @ np.arange(4.0)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(
        means["gradient"], 2 * rows.T @ (rows @ np.arange(4.0)) / 6, rtol=1e-5
    )


@pytest.mark.mesh
def test_parts_are_as_evenly_spread_over_devices_as_the_batch():
    """Each part of 8 rows has two on each of four devices; nothing travels."""
    mesh = jax.make_mesh(
        (4,), ("data",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,)
    )
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=sharding)
    step = jax.jit(
        lambda x: accumulate(lambda c, part: (c, (), jnp.sin(part)), None, x, 2)[2],
        out_shardings=sharding,
    )
    text = step.lower(batch).compile().as_text()
    assert not any(
        f"{name}(" in text
        for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce")
    )
