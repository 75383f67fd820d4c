"""A batch in parts: gradients summed over micro-batches, for batches whose activations do not fit
on the devices at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def accumulate(
    function: Callable[[Any, PyTree], tuple[Any, PyTree, PyTree]],
    carry: Any,
    batch: PyTree,
    parts: int,
) -> tuple[Any, PyTree, PyTree]:
    """Calls `function` on one part of a batch after the other.

    Part i holds the rows i, i + parts, i + 2·parts …: where the batch is split over devices, so is
    each part, evenly.

    Args:
      function: `(carry, part) -> (carry, to_average, rows)`.
      carry: what goes from part to part.
      batch: tree of arrays [b, …]; `parts` divides b.
      parts: 1 calls `function` on the batch itself.

    Returns:
      The last carry; the means of `to_average` over the parts; `rows` [b, …] in the order of the
      batch.
    """
    if parts == 1:
        return function(carry, batch)

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def visit(running: tuple[Any, PyTree], part: PyTree) -> tuple[tuple[Any, PyTree], PyTree]:
        carry, sums = running
        carry, to_average, rows = function(carry, part)
        return (carry, jax.tree.map(jnp.add, sums, to_average)), rows

    split_batch = jax.tree.map(split, batch)
    _, averaged, _ = jax.eval_shape(function, carry, jax.tree.map(lambda x: x[0], split_batch))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), averaged)
    (carry, sums), rows = jax.lax.scan(visit, (carry, zeros), split_batch)
    return carry, jax.tree.map(lambda x: x / parts, sums), jax.tree.map(join, rows)
