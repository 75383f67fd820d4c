"""Which centre each of many points is nearest to, a chunk of points at a time over the devices."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from v2l_jax.ops.nearest import nearest_with_distance

CHUNK = 65_536
"""Points that are on the devices at a time."""
_KEPT_BYTES = 2 << 30
_BLOCK = 8192  # centres compared at a time
_ROWS = 256  # what a device's points are padded to, so that rounding is the same on any number


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cover `count` rows in order."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def assign(
    points: Any,
    centres: Float[np.ndarray, "clusters dim"],
    mean: Float[np.ndarray, " dim"],
    mesh: Mesh | None = None,
) -> tuple[Int[np.ndarray, " points"], float]:
    """The nearest centre of each point by Euclidean distance, the lowest number in a tie.

    Args:
      points: an array [points, dim], or what is sliced like one.
      centres: float32.
      mean: is subtracted from both, because rounding of what all share would decide between centres
        that lie close together.
      mesh: devices that share each chunk.

    Returns:
      int32 numbers of centres, and the sum of squared distances.
    """
    return CentredPoints(points, mean, mesh).nearest(centres)


class CentredPoints:
    """Points about their mean, a chunk at a time, as the search for nearest centres wants them.

    Chunks that fit into memory together are made once; others each time.

    Args:
      points: an array [points, dim], or what is sliced like one.
      mean: is subtracted.
      mesh: devices that share each chunk.
    """

    def __init__(self, points: Any, mean: Float[np.ndarray, " dim"], mesh: Mesh | None = None):
        self._points, self._mean, self._mesh = points, mean, mesh
        self._kept: dict[int, tuple[np.ndarray, float, jax.Array]] = {}
        self._keep = points.shape[0] * points.shape[1] * 4 <= _KEPT_BYTES

    def chunk(self, rows: slice) -> Float[np.ndarray, "rows dim"]:
        """The points of one of `chunks`, float32."""
        return self._chunk(rows)[0]

    def nearest(
        self, centres: Float[np.ndarray, "clusters dim"]
    ) -> tuple[Int[np.ndarray, " points"], float]:
        """As `assign`."""
        count = len(self._points)
        if not count:
            return np.zeros(0, np.int32), 0.0
        centred = jnp.asarray((centres - self._mean).astype(np.float32))
        nearest, objective = np.empty(count, np.int32), 0.0
        waiting: tuple[slice, float, Any] | None = None
        for rows in chunks(count):
            _, squares, block = self._chunk(rows)
            found = _search(block, centred, self._mesh)
            if waiting is not None:  # the host prepares a chunk while the devices search
                objective += _collect(waiting, nearest)
            waiting = (rows, squares, found)
        assert waiting is not None
        return nearest, objective + _collect(waiting, nearest)

    def _chunk(self, rows: slice) -> tuple[np.ndarray, float, jax.Array]:
        """The centred points, the sum of their squares, and the padded points on the devices."""
        if rows.start in self._kept:
            return self._kept[rows.start]
        block = (np.asarray(self._points[rows], np.float64) - self._mean).astype(np.float32)
        squares = float(np.einsum("nd,nd->n", block, block).sum(dtype=np.float64))
        placed = _padded(block, self._mesh, min(CHUNK, len(self._points)))
        if self._keep:
            self._kept[rows.start] = (block, squares, placed)
        return block, squares, placed


def _collect(waiting: tuple[slice, float, Any], nearest: np.ndarray) -> float:
    rows, squares, (distance, index) = waiting
    count = rows.stop - rows.start
    nearest[rows] = np.asarray(index)[:count]
    return squares + float(np.asarray(distance)[:count].sum(dtype=np.float64))


def _padded(block: np.ndarray, mesh: Mesh | None, size: int) -> jax.Array:
    """The chunk with rows of zeros up to one size, on the devices."""
    parts = _ROWS * (mesh.size if mesh is not None else 1)
    rows = -(-size // parts) * parts
    padded = block
    if len(block) < rows:
        padded = np.zeros((rows, block.shape[1]), np.float32)
        padded[: len(block)] = block
    if mesh is None:
        return jnp.asarray(padded)
    return jax.device_put(padded, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


@functools.partial(jax.jit, static_argnames="mesh")
def _search(
    points: Float[Array, "rows dim"], centres: Float[Array, "clusters dim"], mesh: Mesh | None
) -> tuple[Float[Array, " rows"], Int[Array, " rows"]]:
    """Squared distance less the point's squared length, and the number of the nearest centre."""

    def search(points: jax.Array, centres: jax.Array) -> tuple[jax.Array, jax.Array]:
        lengths = jnp.sum(centres**2, axis=-1)
        return nearest_with_distance(points, centres, lengths, _BLOCK)

    if mesh is None or mesh.size == 1:
        return search(points, centres)
    split = PartitionSpec(mesh.axis_names)
    shared = jax.shard_map(
        search,
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=(split, split),
        check_vma=False,
    )
    return shared(points, centres)
