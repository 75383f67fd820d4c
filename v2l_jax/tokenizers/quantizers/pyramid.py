"""SPAE's quantizer (Yu et al. 2023, section 3.2): a pyramid of token layers over one feature map,
each quantizing what the layers before it left.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.tokenizers.quantizers.base import nearest_ids


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one layer of the pyramid saw and chose.

    Attributes:
      seen: float32 [b, h_l, w_l, d], the vectors z_l that were quantized.
      ids: int32 [b, h_l, w_l], the entries nearest to them.
      so_far: float32 [b, h, w, d], the feature map as this layer and those before it have it; 0
        where none has a token yet.
      covered: bool [h, w] on the host, where one has.
    """

    seen: Float[Array, "b h_l w_l d"]
    ids: Int[Array, "b h_l w_l"]
    so_far: Float[Array, "b h w d"]
    covered: np.ndarray


def positions(count: int, side: int) -> np.ndarray:
    """Rows (and columns) of a map of `side` that a layer of `count` a side takes, counted from 0.

    The dilation subsampler: step·i − ⌈step / 2⌉ + 1 for i = 1 … count, counted from 1.
    """
    step = side // count
    return step * np.arange(1, count + 1) - -(-step // 2)


def quantize_layers(
    features: Float[Array, "b h w d"],
    table: Float[Array, "entries d"],
    sides: Sequence[int],
    residual: bool = False,
    mesh: Mesh | None = None,
) -> list[Layer]:
    """Streaming average quantization.

    Where a position has tokens k_1 … k_{l−1} of earlier layers, layer l quantizes
    z + Σ (z − e(k_i)), and the map so far is the mean of the e(k_i). With `residual`, the ablation,
    it quantizes z − Σ e(k_i), and the map so far is their sum.

    Args:
      features: z, square maps.
      table: e; no gradient reaches it.
      sides: tokens a side of each layer, first layer first; each divides h.
      residual: see above.
      mesh: devices that share the search.
    """
    table = jax.lax.stop_gradient(table)
    side = features.shape[1]
    sums, counts = jnp.zeros(features.shape), np.zeros((side, side), np.int32)
    layers = []
    for here in sides:
        grid = np.ix_(positions(here, side), positions(here, side))
        whole = features if residual else features * (1 + counts[..., None])
        seen = (whole - sums)[:, *grid]
        ids = nearest_ids(seen, table, mesh)
        sums, counts = _with_tokens(sums, counts, table[ids], grid)
        so_far = _map(sums, counts, residual)
        layers.append(Layer(seen, ids, so_far, counts > 0))
    return layers


def map_of_tokens(
    ids: Sequence[Int[Array, "b _ _"]],
    table: Float[Array, "entries d"],
    side: int,
    residual: bool = False,
) -> Float[Array, "b h w d"]:
    """The feature map that the first layers' tokens stand for; see `quantize_layers`.

    Args:
      ids: of the first layer and as many after it as there are.
      table: e.
      side: of the map.
      residual: as in `quantize_layers`.
    """
    shape = (len(ids[0]), side, side, table.shape[1])
    sums, counts = jnp.zeros(shape, table.dtype), np.zeros((side, side), np.int32)
    for layer in ids:
        grid = np.ix_(positions(layer.shape[1], side), positions(layer.shape[2], side))
        sums, counts = _with_tokens(sums, counts, table[layer], grid)
    return _map(sums, counts, residual)


def _with_tokens(
    sums: Array, counts: np.ndarray, vectors: Array, grid: tuple[np.ndarray, ...]
) -> tuple[Array, np.ndarray]:
    """Sums and counts of the vectors at each position, with those of one more layer."""
    counts = counts.copy()
    counts[grid] += 1
    return sums.at[:, *grid].add(vectors), counts


def _map(sums: Array, counts: np.ndarray, residual: bool) -> Array:
    return sums if residual else sums / np.maximum(counts, 1)[..., None]
