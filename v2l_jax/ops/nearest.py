"""Search for the rows of a table that are nearest to query vectors, by distance or inner product.

`nearest_row` finds one row by Euclidean distance without holding all distances, also over a mesh;
`nearest_rows` finds several. `top_products` and `extreme_products` compare by inner product. All
compute in float32 and pass no gradient to what they return.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from v2l_jax.ops.cpu import cpu_form
from v2l_jax.parallel.mesh import TENSOR_AXIS, batch_sharding

_GROUP = 64  # Rows; blocks are multiples of it.
_CPU_QUERIES = 256


@functools.partial(jax.jit, static_argnames=("block_size", "mesh"))
def nearest_row(
    queries: Float[Array, "query d"],
    rows: Float[Array, "row d"],
    block_size: int = 8192,
    mesh: Mesh | None = None,
    squared_lengths: Float[Array, " row"] | None = None,
) -> Int[Array, " query"]:
    """Index of the row nearest to each query by Euclidean distance; the lowest index wins a tie.

    Works through the table in blocks and keeps a running minimum, so memory holds [query,
    block_size] distances, never [query, row].

    Args:
      queries: float32 vectors; over a mesh, their number divides over its batch axes.
      rows: float32 vectors.
      block_size: rows compared at a time.
      mesh: splits the rows over its "tensor" axis and the queries over its batch axes. Each device
        searches its part; one gather of a distance and an index for each query then finds the
        nearest of all. None searches where the arrays are.
      squared_lengths: of the rows, where shorter vectors with the same inner products stand for
        queries and rows (see `in_latent_space`). None takes the rows' own lengths about their mean,
        because rounding of what all rows share would decide between rows that lie close together.
    """
    if squared_lengths is None:
        mean = jnp.mean(rows, axis=0)
        queries, rows = queries - mean, rows - mean
        squared_lengths = jnp.sum(rows**2, axis=-1)
    queries, rows, squared_lengths = jax.lax.stop_gradient((queries, rows, squared_lengths))
    if mesh is None or mesh.shape[TENSOR_AXIS] == 1:
        return nearest_with_distance(queries, rows, squared_lengths, block_size)[1]
    parts = mesh.shape[TENSOR_AXIS]
    size = math.ceil(len(rows) / parts)

    def search_part(queries: jax.Array, rows: jax.Array, squared_lengths: jax.Array) -> jax.Array:
        distance, index = nearest_with_distance(queries, rows, squared_lengths, block_size)
        index += jax.lax.axis_index(TENSOR_AXIS) * size
        found = jnp.stack([jax.lax.bitcast_convert_type(distance, jnp.int32), index])
        distances, indices = jnp.swapaxes(jax.lax.all_gather(found, TENSOR_AXIS), 0, 1)
        best = jnp.argmin(jax.lax.bitcast_convert_type(distances, jnp.float32), axis=0)
        return jnp.take_along_axis(indices, best[None], axis=0)[0]

    batch = batch_sharding(mesh).spec[0]
    search = jax.shard_map(
        search_part,
        mesh=mesh,
        in_specs=(PartitionSpec(batch), PartitionSpec(TENSOR_AXIS), PartitionSpec(TENSOR_AXIS)),
        out_specs=PartitionSpec(batch),
        check_vma=False,  # What is gathered is the same on every device of the axis.
    )
    return search(queries, *_pad_rows(rows, squared_lengths, parts * size))


def in_latent_space(
    latents: Float[Array, "query z"],
    scale: Float[Array, " query"],
    kernel: Float[Array, "z d"],
    bias: Float[Array, " d"],
    rows: Float[Array, "row d"],
) -> tuple[Float[Array, "query z1"], Float[Array, "row z1"], Float[Array, " row"]]:
    """Prepares `nearest_row` of the queries scale · (latents · kernel + bias), in z + 1 dimensions.

    The inner products of the returned vectors, of length z + 1, are those of the queries with the
    rows about the rows' mean, of length d: a third of the work with the paper's 256 and 768.

    Args:
      latents: float32 vectors before the affine map.
      scale: factor of each query, such as the reciprocal of its length.
      kernel, bias: the affine map.
      rows: float32 vectors in the map's target space.

    Returns:
      For `nearest_row`: queries, rows, and the rows' squared lengths up to a shared constant.
    """
    mean = jnp.mean(rows, axis=0)
    centered = rows - mean
    rows_there = jnp.dot(
        centered, jnp.concatenate([kernel, bias[None]]).T, precision=jax.lax.Precision.HIGHEST
    )
    queries = jnp.concatenate([latents, jnp.ones_like(latents[:, :1])], axis=-1) * scale[:, None]
    return queries, rows_there, jnp.sum(centered * (rows + mean), axis=-1)


# Inline: in the discriminator's turn, XLA's partitioner for TPUs fails on a call of its own here.
@functools.partial(jax.jit, static_argnames="count", inline=True)
def nearest_rows(
    queries: Float[Array, "query d"], rows: Float[Array, "row d"], count: int
) -> Int[Array, "query count"]:
    """Indices of the `count` rows nearest to each query by Euclidean distance, nearest first.

    Args:
      queries: float32 vectors.
      rows: float32 vectors, of any length.
      count: rows returned for each query.
    """
    queries, rows = jax.lax.stop_gradient((queries, rows))
    _, ids = jax.lax.top_k(-_shifted_distances(queries, rows, jnp.sum(rows**2, axis=-1)), count)
    return ids.astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="count")
def top_products(
    queries: Float[Array, "query d"], rows: Float[Array, "row d"], count: int
) -> Int[Array, "query count"]:
    """Indices of the `count` rows with the largest inner product with each query, largest first."""
    return jax.lax.top_k(_products(queries, rows), count)[1]


@jax.jit
def extreme_products(
    queries: Float[Array, "query d"], blocks: Float[Array, "block row d"]
) -> tuple[Float[Array, " query"], Float[Array, " query"]]:
    """The largest and the smallest inner product of each query with any row, a block at a time."""

    def visit(ends: tuple[Any, Any], block: Any) -> tuple[tuple[Any, Any], None]:
        products = _products(queries, block)
        return (
            jnp.maximum(ends[0], products.max(axis=1)),
            jnp.minimum(ends[1], products.min(axis=1)),
        ), None

    infinite = jnp.full(queries.shape[:1], jnp.inf)
    return jax.lax.scan(visit, (-infinite, infinite), blocks)[0]


def nearest_with_distance(
    queries: Float[Array, "query d"],
    rows: Float[Array, "row d"],
    squared_lengths: Float[Array, " row"],
    block_size: int,
) -> tuple[Float[Array, " query"], Int[Array, " query"]]:
    """Shifted distance to, and index of, the nearest row; infinity where all rows have infinite
    lengths. A CPU takes few queries at a time, whose distances stay in cache.
    """

    def on_cpu(queries: jax.Array, *table: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = lambda query: jax.tree.map(
            jnp.squeeze, _search_blocks(query[None], *table, block_size=block_size)
        )
        return jax.lax.map(one, queries, batch_size=_CPU_QUERIES)

    search = functools.partial(_search_blocks, block_size=block_size)
    return cpu_form(queries, rows, squared_lengths, cpu=on_cpu, default=search)


def _search_blocks(
    queries: Float[Array, "query d"],
    rows: Float[Array, "row d"],
    squared_lengths: Float[Array, " row"],
    block_size: int,
) -> tuple[Float[Array, " query"], Int[Array, " query"]]:
    num_blocks = math.ceil(len(rows) / block_size)
    size = _GROUP * math.ceil(len(rows) / num_blocks / _GROUP)
    blocks = jax.tree.map(
        lambda x: x.reshape(num_blocks, size, *x.shape[1:]),
        _pad_rows(rows, squared_lengths, num_blocks * size),
    )

    def visit(
        best: tuple[jax.Array, jax.Array], block: tuple[jax.Array, tuple]
    ) -> tuple[Any, None]:
        best_distance, best_index = best
        start, (vectors, lengths) = block
        distances = _shifted_distances(queries, vectors, lengths)
        nearest = _argmin(distances)
        distance = jnp.take_along_axis(distances, nearest[:, None], axis=-1)[:, 0]
        closer = distance < best_distance
        return (
            jnp.where(closer, distance, best_distance),
            jnp.where(closer, start + nearest, best_index),
        ), None

    start = (jnp.full(queries.shape[:1], jnp.inf), jnp.zeros(queries.shape[:1], jnp.int32))
    if num_blocks == 1:
        return visit(start, (jnp.int32(0), jax.tree.map(lambda x: x[0], blocks)))[0]
    return jax.lax.scan(visit, start, (size * jnp.arange(num_blocks, dtype=jnp.int32), blocks))[0]


def _pad_rows(
    rows: Float[Array, "row d"], squared_lengths: Float[Array, " row"], count: int
) -> tuple[Float[Array, "count d"], Float[Array, " count"]]:
    """Fills the table up to `count` rows with rows that are never nearest."""
    missing = count - len(rows)
    return jnp.pad(rows, ((0, missing), (0, 0))), jnp.pad(
        squared_lengths, (0, missing), constant_values=jnp.inf
    )


def _argmin(distances: Float[Array, "query row"]) -> Int[Array, " query"]:
    """Index of each query's minimum, the lowest in a tie.

    Finds the group of rows that has the minimum first, because XLA's CPU compiler takes twenty
    times as long for an arg-min as for a minimum.
    """
    groups = distances.reshape(len(distances), -1, _GROUP)
    group = jnp.argmin(jnp.min(groups, axis=-1), axis=-1)
    within = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return (_GROUP * group + jnp.argmin(within, axis=-1)).astype(jnp.int32)


def _shifted_distances(
    queries: Float[Array, "n d"], rows: Float[Array, "m d"], squared_lengths: Float[Array, " m"]
) -> Float[Array, "n m"]:
    """Squared distances less each query's squared length, which leaves the order of rows as it
    is.
    """
    return squared_lengths - 2.0 * _products(queries, rows)


def _products(queries: Float[Array, "n d"], rows: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.dot(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
