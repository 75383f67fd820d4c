"""Grouped-query attention over several stretches of keys (shared prefix, own cache, new tokens) as
if they were one.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.ops.matmul import einsum_in

_MASKED = -1e30
_QUERY_BLOCK = 64  # queries that look at the same stretch of keys in a causal prefill
_MAX_BLOCKS = 16


class Segment(NamedTuple):
    """Keys that queries may see. Its rows may divide the batch: then consecutive queries share a
    row.

    Attributes:
      keys: [rows, length, kv_heads, head_dim].
      values: [rows, length, kv_heads, head_dim].
      positions: int32 [rows, length]; -1 for nothing.
    """

    keys: Array
    values: Array
    positions: Array


def causal_attention(
    queries: Float[Array, "batch length kv_heads group dim"],
    positions: Int[Array, "batch length"],
    contexts: list[Segment],
    own: Segment,
    window: Int[Array, ""] | None,
    dtype: DTypeLike,
) -> Float[Array, "batch length width"]:
    """Attention of new tokens to contexts and to themselves; a block of queries skips the keys that
    all come after it.

    Args:
      queries, positions, window, dtype: as for `attention`; positions ascend along a row.
      contexts: what came before.
      own: the new tokens' keys and values.
    """
    length = queries.shape[1]
    block = max(_QUERY_BLOCK, -(-length // _MAX_BLOCKS))
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = Segment(own.keys[:, :stop], own.values[:, :stop], own.positions[:, :stop])
        parts.append(
            attention(
                queries[:, start:stop], positions[:, start:stop], [*contexts, seen], window, dtype
            )
        )
    return jnp.concatenate(parts, axis=1)


def attention(
    queries: Float[Array, "batch length kv_heads group dim"],
    positions: Int[Array, "batch length"],
    segments: list[Segment],
    window: Int[Array, ""] | None,
    dtype: DTypeLike,
) -> Float[Array, "batch length width"]:
    """Causal attention over several key segments as if they were one, without concatenating or
    repeating keys.

    Each segment's softmax is taken with its own maximum, then the parts are rescaled to the common
    one (online softmax: Milakov & Gimelshein, arXiv 1805.02867).

    Args:
      queries: scaled and rotated; `group` query heads share a key/value head.
      positions: of the queries; -1 for padding, whose result means nothing.
      segments: keys that queries see where their position is not later.
      window: a query sees this many latest positions, itself included; None for all.
      dtype: of the inputs of matrix products; softmax and results are float32.
    """
    batch, length, kv_heads, group, dim = queries.shape
    parts = [_partial_attention(queries, positions, segment, window, dtype) for segment in segments]
    peak = parts[0][0]
    for part in parts[1:]:
        peak = jnp.maximum(peak, part[0])
    scale = [jnp.exp(part[0] - peak) for part in parts]
    total = sum(part[1] * s for part, s in zip(parts, scale))
    out = sum(part[2] * s for part, s in zip(parts, scale)) / total
    return jnp.reshape(out, (batch, length, kv_heads * group * dim))


def _partial_attention(queries, positions, segment, window, dtype):
    """Peak score, sum of exponentials and weighted values of one segment, each [batch, length,
    kv_heads, group, 1 or dim].
    """
    batch, length, kv_heads, group, dim = queries.shape
    rows = segment.keys.shape[0]
    shared = lambda x: x.reshape(rows, batch // rows, *x.shape[1:])
    scores = einsum_in("nrskgd,ntkd->nkrsgt", shared(queries), segment.keys, dtype)
    query_at, key_at = shared(positions)[..., None], segment.positions[:, None, None, :]
    seen = (key_at >= 0) & (key_at <= query_at)
    if window is not None:
        seen &= query_at - key_at < window
    scores = jnp.where(seen[:, None, :, :, None, :], scores, _MASKED)
    peak = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    mixed = einsum_in("nkrsgt,ntkd->nkrsgd", weights, segment.values, dtype)
    by_row = lambda x: jnp.moveaxis(x, 1, 3).reshape(batch, length, kv_heads, group, -1)
    return by_row(peak), by_row(weights.sum(-1, keepdims=True)), by_row(mixed)
