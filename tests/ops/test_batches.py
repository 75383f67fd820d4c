"""Batches of one shape against the function applied to all rows at once."""

import jax
import numpy as np
import pytest

from v2l_jax.ops.batches import divisible, fill, in_batches
from v2l_jax.parallel.mesh import make_mesh

pytestmark = pytest.mark.mesh


@pytest.mark.parametrize("mesh", [None, {"data": 8}, {"data": 2, "tensor": 4}], ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 19])
def test_all_rows_come_back_in_order_from_batches_of_one_shape(mesh, count):
    mesh, shapes = mesh and make_mesh(mesh), set()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, 3)), rng.integers(0, 9, count)

    def function(a, b):
        shapes.add((a.shape, b.shape))
        assert mesh is None or len(a.sharding.device_set) == 8
        return {"sum": a.sum(axis=1) + b, "b": (b,)}

    found = in_batches(function, a.astype(np.float32), b, size=5, mesh=mesh)
    np.testing.assert_allclose(found["sum"], a.sum(axis=1) + b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["b"][0], b)
    size = 5 if mesh is None else 8
    assert shapes == {((size, 3), (size,))}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_filled_rows_repeat_the_first():
    batch, count = fill({"x": np.arange(3), "y": np.arange(6).reshape(3, 2)}, 5)
    assert count == 3
    assert batch["x"].tolist() == [0, 1, 2, 0, 0] and batch["y"][3:].tolist() == [[0, 1]] * 2
    full = {"x": np.arange(3)}
    assert fill(full, 3) == (full, 3)


def test_sizes_over_a_mesh_are_rounded_up():
    mesh = make_mesh({"data": 4, "tensor": 2})
    assert [divisible(size, mesh) for size in (1, 8, 9)] == [8, 8, 16]
    assert divisible(9, None) == 9
