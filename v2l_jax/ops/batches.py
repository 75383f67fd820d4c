"""Host loops that apply a compiled function to many rows, a batch of one fixed shape at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.progress import progress_bar


def in_batches(
    function: Callable[..., Any],
    *arrays: np.ndarray,
    size: int,
    mesh: Mesh | None = None,
    description: str = "",
) -> PyTree:
    """Applies a function to all rows of some arrays, so many at a time.

    The last batch is filled up (see `fill`), so that a jitted function compiles once.

    Args:
      function: arrays of a batch → a tree of arrays with one row for each row of the batch.
      *arrays: at least one, with the same number of rows, which is not 0.
      size: rows in a batch; over a mesh, rounded up as `divisible` does.
      mesh: batches are split over its batch axes; None leaves them to the function.
      description: what the progress bar says; "" shows none.

    Returns:
      The function's tree, in numpy, with the rows of all batches.
    """
    size = divisible(size, mesh)
    parts = []
    for start in progress_bar(range(0, len(arrays[0]), size), description, "batch"):
        batch, count = fill(tuple(array[start : start + size] for array in arrays), size)
        result = function(*(batch if mesh is None else shard_batch(batch, mesh)))
        parts.append(jax.tree.map(lambda x: np.asarray(x)[:count], result))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def fill(batch: PyTree, size: int) -> tuple[PyTree, int]:
    """Repeats a batch's first row until there are `size` rows.

    Args:
      batch: a tree of numpy arrays with the same number of rows, from 1 to `size`.
      size: rows wanted.

    Returns:
      The filled tree and the number of real rows, which come first.
    """
    count = len(jax.tree.leaves(batch)[0])
    if count == size:
        return batch, count
    repeat = lambda x: np.concatenate([x, np.repeat(x[:1], size - count, axis=0)])
    return jax.tree.map(repeat, batch), count


def divisible(size: int, mesh: Mesh | None) -> int:
    """The batch size, rounded up to a multiple of the mesh's devices; unchanged without a mesh."""
    return size if mesh is None else -(-size // mesh.size) * mesh.size
