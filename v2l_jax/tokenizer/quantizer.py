"""From features to words: nearest rows of a frozen codebook (Zhu et al. 2024, section 3.2). Distances are float32."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class Quantized:
    """What the local quantizer returns.

    Attributes:
      vectors: float32 [batch, h, w, d], the chosen words' vectors; gradients pass straight through to the features.
      ids: int32 [batch, h, w], the chosen words.
      loss: float32 scalar.
    """

    vectors: Float[Any, "batch h w d"]
    ids: Int[Any, "batch h w"]
    loss: Float[Any, ""]


@functools.partial(jax.jit, static_argnames="block_size")
def nearest_word(
    features: Float[Array, "token d"], words: Float[Array, "word d"], block_size: int = 8192
) -> Int[Array, " token"]:
    """Index of the row of `words` nearest to each feature by Euclidean distance; the lowest index wins a tie.

    Works through the vocabulary in blocks and keeps a running minimum, so memory holds [token, block_size] distances,
    never [token, word]. No gradient.

    Args:
      features: float32 vectors.
      words: float32 vectors.
      block_size: words compared at a time.
    """
    features, words = jax.lax.stop_gradient((features, words))
    count = words.shape[0]
    num_blocks = math.ceil(count / block_size)
    if num_blocks == 1:
        return jnp.argmin(_shifted_distances(features, words), axis=-1).astype(jnp.int32)
    size = math.ceil(count / num_blocks)
    padded = jnp.pad(words, ((0, num_blocks * size - count), (0, 0))).reshape(num_blocks, size, -1)

    def visit(best, block):
        best_distance, best_index = best
        index, vectors = block
        is_word = index * size + jnp.arange(size) < count
        distances = jnp.where(is_word, _shifted_distances(features, vectors), jnp.inf)
        nearest = jnp.argmin(distances, axis=-1)
        distance = jnp.take_along_axis(distances, nearest[:, None], axis=-1)[:, 0]
        closer = distance < best_distance
        return (
            jnp.where(closer, distance, best_distance),
            jnp.where(closer, index * size + nearest.astype(jnp.int32), best_index),
        ), None

    start = (jnp.full(features.shape[:1], jnp.inf), jnp.zeros(features.shape[:1], jnp.int32))
    (_, nearest), _ = jax.lax.scan(visit, start, (jnp.arange(num_blocks, dtype=jnp.int32), padded))
    return nearest


def quantize(
    features: Float[Array, "batch h w d"],
    ids: Int[Array, "batch h w"],
    vectors: Float[Array, "batch h w d"],
    codebook_weight: float = 0.33,
) -> Quantized:
    """Replaces features by their words' vectors, straight-through, and scores how far apart they are.

    loss = mean((sg(vectors) − features)²) + codebook_weight · mean((vectors − sg(features))²).

    Args:
      features: float32, normalized encoder output.
      ids: the nearest words.
      vectors: float32, the (projected, differentiable) vectors of those words.
      codebook_weight: weight of the term that moves the projector.
    """
    stop = jax.lax.stop_gradient
    loss = jnp.mean((stop(vectors) - features) ** 2) + codebook_weight * jnp.mean((vectors - stop(features)) ** 2)
    return Quantized(vectors=features + stop(vectors - features), ids=ids, loss=loss)


def nearest_global_words(
    embeddings: Float[Array, "batch d"], words: Float[Array, "word d"], k: int
) -> Int[Array, "batch k"]:
    """The k rows of `words` nearest to each embedding by Euclidean distance, nearest first. No gradient.

    Args:
      embeddings: float32 image embeddings, L2-normalized.
      words: float32 word vectors in the same space, of any length.
      k: words an image gets.
    """
    embeddings, words = jax.lax.stop_gradient((embeddings, words))
    _, ids = jax.lax.top_k(-_shifted_distances(embeddings, words), k)
    return ids.astype(jnp.int32)


def _shifted_distances(features: Float[Array, "n d"], words: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Squared distances less each feature's own squared length, which does not change which word is nearest."""
    products = jnp.dot(features, words.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(words**2, axis=-1) - 2.0 * products
