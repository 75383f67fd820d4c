"""Meshes over 8 simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.parallel.mesh import make_mesh, replicate, shard_batch

pytestmark = pytest.mark.mesh


def test_minus_one_takes_what_the_others_leave():
    assert dict(make_mesh({"data": -1}).shape) == {"replica": 1, "data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh({"tensor": 2, "data": -1}).shape) == {
        "replica": 1,
        "data": 4,
        "fsdp": 1,
        "tensor": 2,
    }
    assert dict(make_mesh({"replica": 2, "data": 2, "fsdp": 2}).shape) == {
        "replica": 2,
        "data": 2,
        "fsdp": 2,
        "tensor": 1,
    }


def test_axes_have_one_order_whatever_the_config_says():
    assert make_mesh({"tensor": 2, "fsdp": 4}).axis_names == ("replica", "data", "fsdp", "tensor")
    with pytest.raises(ConfigError, match="no axis 'model'; there are replica, data, fsdp, tensor"):
        make_mesh({"model": 8})


@pytest.mark.parametrize(
    "axes",
    [{"data": 3}, {"data": -1, "tensor": 3}, {"data": -1, "fsdp": -1}, {"data": 0}, {"data": -2}],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(axes):
    with pytest.raises(ConfigError) as raised:
        make_mesh(axes)
    assert "\n" not in str(raised.value) and "data" in str(raised.value)


@pytest.mark.parametrize(
    "axes",
    [{"data": -1}, {"data": 2, "tensor": 4}, {"tensor": 8}, {"replica": 2, "data": 2, "fsdp": 2}],
)
def test_sharded_batch_holds_the_same_values_in_the_right_parts(axes):
    mesh = make_mesh(axes)
    images = np.random.RandomState(0).randn(16, 3, 2).astype("float32")
    batch = shard_batch({"image": images, "label": np.arange(16)}, mesh)
    np.testing.assert_array_equal(batch["image"], images)
    np.testing.assert_array_equal(batch["label"], np.arange(16))
    parts = np.prod([size for name, size in mesh.shape.items() if name != "tensor"], dtype=int)
    for shard in batch["image"].addressable_shards:
        assert shard.data.shape == (16 // parts, 3, 2)
        np.testing.assert_array_equal(shard.data, images[shard.index])


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="batch of 12 does not divide over 8 devices"):
        shard_batch({"image": np.zeros((12, 2))}, make_mesh({"data": -1}))


def test_replicated_tree_is_whole_on_every_device():
    mesh = make_mesh({"data": -1})
    tree = replicate({"w": jnp.arange(6.0), "rng": jax.random.PRNGKey(1)}, mesh)
    assert len(tree["w"].addressable_shards) == 8
    for shard in tree["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, np.arange(6.0))


def test_data_parallel_gradient_is_that_of_the_whole_batch():
    mesh = make_mesh({"data": -1})
    rs = np.random.RandomState(0)
    x, w = rs.randn(16, 4).astype("float32"), rs.randn(4).astype("float32")
    grad = jax.jit(jax.grad(lambda w, x: ((x @ w) ** 2).mean()))
    sharded = grad(replicate(jnp.asarray(w), mesh), shard_batch(x, mesh))
    np.testing.assert_allclose(sharded, 2 * x.T @ (x @ w) / 16, rtol=1e-5)
