"""From features to words: nearest rows of a frozen codebook (Zhu et al. 2024, section 3.2).
Distances are float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from v2l_jax.parallel.mesh import TENSOR_AXIS, batch_sharding

_GROUP = 64  # words; blocks are multiples of it
_CPU_FEATURES = 256


@struct.dataclass
class Quantized:
    """What the local quantizer returns.

    Attributes:
      vectors: float32 [batch, h, w, d], the chosen words' vectors; gradients pass straight through
        to the features.
      ids: int32 [batch, h, w], the chosen words.
      loss: float32 scalar.
    """

    vectors: Float[Any, "batch h w d"]
    ids: Int[Any, "batch h w"]
    loss: Float[Any, ""]


@functools.partial(jax.jit, static_argnames=("block_size", "mesh"))
def nearest_word(
    features: Float[Array, "token d"],
    words: Float[Array, "word d"],
    block_size: int = 8192,
    mesh: Mesh | None = None,
    squared_lengths: Float[Array, " word"] | None = None,
) -> Int[Array, " token"]:
    """Index of the row of `words` nearest to each feature by Euclidean distance; the lowest index
    wins a tie.

    Works through the vocabulary in blocks and keeps a running minimum, so memory holds [token,
    block_size] distances, never [token, word]. No gradient.

    Args:
      features: float32 vectors; over a mesh, their number divides over its batch axes.
      words: float32 vectors.
      block_size: words compared at a time.
      mesh: splits the words over its "tensor" axis and the features over its batch axes. Each
        device searches its part, and one gather of a distance and an index for each feature finds
        the nearest of all; their mean is one sum of d numbers.
      squared_lengths: of the words, where shorter vectors of the same inner products stand for
        features and words (see `in_latent_space`); None takes the rows' own, about their mean, as
        rounding of what all rows share would decide between rows that lie close together.
    """
    if squared_lengths is None:
        mean = jnp.mean(words, axis=0)
        features, words = features - mean, words - mean
        squared_lengths = jnp.sum(words**2, axis=-1)
    features, words, squared_lengths = jax.lax.stop_gradient((features, words, squared_lengths))
    if mesh is None or mesh.shape[TENSOR_AXIS] == 1:
        return _search(features, words, squared_lengths, block_size)[1]
    parts = mesh.shape[TENSOR_AXIS]
    size = math.ceil(len(words) / parts)

    def search_part(features: jax.Array, words: jax.Array, squared_lengths: jax.Array) -> jax.Array:
        distance, index = _search(features, words, squared_lengths, block_size)
        index += jax.lax.axis_index(TENSOR_AXIS) * size
        found = jnp.stack([jax.lax.bitcast_convert_type(distance, jnp.int32), index])
        distances, indices = jnp.swapaxes(jax.lax.all_gather(found, TENSOR_AXIS), 0, 1)
        best = jnp.argmin(jax.lax.bitcast_convert_type(distances, jnp.float32), axis=0)
        return jnp.take_along_axis(indices, best[None], axis=0)[0]

    rows = batch_sharding(mesh).spec[0]
    search = jax.shard_map(
        search_part,
        mesh=mesh,
        in_specs=(PartitionSpec(rows), PartitionSpec(TENSOR_AXIS), PartitionSpec(TENSOR_AXIS)),
        out_specs=PartitionSpec(rows),
        check_vma=False,  # what is gathered is the same on every device of the axis
    )
    return search(features, *_pad_words(words, squared_lengths, parts * size))


def in_latent_space(
    latents: Float[Array, "token z"],
    scale: Float[Array, " token"],
    kernel: Float[Array, "z d"],
    bias: Float[Array, " d"],
    words: Float[Array, "word d"],
) -> tuple[Float[Array, "token z1"], Float[Array, "word z1"], Float[Array, " word"]]:
    """The search for the word nearest to the features scale · (latents · kernel + bias), with
    vectors of length z + 1.

    Inner products of length z + 1 stand for ones of length d: a third of the work, with the paper's
    256 and 768. They are those of the features with the words about the words' mean, for the reason
    in `nearest_word`.

    Returns:
      For `nearest_word`: features, words, and the words' squared lengths but for a constant.
    """
    mean = jnp.mean(words, axis=0)
    centered = words - mean
    words_there = jnp.dot(
        centered, jnp.concatenate([kernel, bias[None]]).T, precision=jax.lax.Precision.HIGHEST
    )
    features = jnp.concatenate([latents, jnp.ones_like(latents[:, :1])], axis=-1) * scale[:, None]
    return features, words_there, jnp.sum(centered * (words + mean), axis=-1)


def _search(
    features: Float[Array, "token d"],
    words: Float[Array, "word d"],
    squared_lengths: Float[Array, " word"],
    block_size: int,
) -> tuple[Float[Array, " token"], Int[Array, " token"]]:
    """Shifted distance to, and index of, the nearest word; infinity where all words have infinite
    lengths. A CPU takes few features at a time, whose distances stay in cache.
    """

    def on_cpu(features: jax.Array, *words: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = lambda feature: jax.tree.map(
            jnp.squeeze, _search_blocks(feature[None], *words, block_size)
        )
        return jax.lax.map(one, features, batch_size=_CPU_FEATURES)

    def elsewhere(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _search_blocks(*arrays, block_size)

    return jax.lax.platform_dependent(
        features, words, squared_lengths, cpu=on_cpu, default=elsewhere
    )


def _search_blocks(
    features: Float[Array, "token d"],
    words: Float[Array, "word d"],
    squared_lengths: Float[Array, " word"],
    block_size: int,
) -> tuple[Float[Array, " token"], Int[Array, " token"]]:
    num_blocks = math.ceil(len(words) / block_size)
    size = _GROUP * math.ceil(len(words) / num_blocks / _GROUP)
    blocks = jax.tree.map(
        lambda x: x.reshape(num_blocks, size, *x.shape[1:]),
        _pad_words(words, squared_lengths, num_blocks * size),
    )

    def visit(
        best: tuple[jax.Array, jax.Array], block: tuple[jax.Array, tuple]
    ) -> tuple[Any, None]:
        best_distance, best_index = best
        start, (vectors, lengths) = block
        distances = _shifted_distances(features, vectors, lengths)
        nearest = _argmin(distances)
        distance = jnp.take_along_axis(distances, nearest[:, None], axis=-1)[:, 0]
        closer = distance < best_distance
        return (
            jnp.where(closer, distance, best_distance),
            jnp.where(closer, start + nearest, best_index),
        ), None

    start = (jnp.full(features.shape[:1], jnp.inf), jnp.zeros(features.shape[:1], jnp.int32))
    if num_blocks == 1:
        return visit(start, (jnp.int32(0), jax.tree.map(lambda x: x[0], blocks)))[0]
    return jax.lax.scan(visit, start, (size * jnp.arange(num_blocks, dtype=jnp.int32), blocks))[0]


def _pad_words(
    words: Float[Array, "word d"], squared_lengths: Float[Array, " word"], count: int
) -> tuple[Float[Array, "count d"], Float[Array, " count"]]:
    """Words that are never nearest, up to a count."""
    missing = count - len(words)
    return jnp.pad(words, ((0, missing), (0, 0))), jnp.pad(
        squared_lengths, (0, missing), constant_values=jnp.inf
    )


def _argmin(distances: Float[Array, "token word"]) -> Int[Array, " token"]:
    """Index of each row's minimum, the lowest in a tie: first the group of words that has it, since
    XLA's CPU compiler takes twenty times as long for an arg-min as for a minimum.
    """
    groups = distances.reshape(len(distances), -1, _GROUP)
    group = jnp.argmin(jnp.min(groups, axis=-1), axis=-1)
    within = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
    return (_GROUP * group + jnp.argmin(within, axis=-1)).astype(jnp.int32)


def quantize(
    features: Float[Array, "batch h w d"],
    ids: Int[Array, "batch h w"],
    vectors: Float[Array, "batch h w d"],
    codebook_weight: float = 0.33,
) -> Quantized:
    """Replaces features by their words' vectors, straight-through, and scores how far apart they
    are.

    loss = mean((sg(vectors) − features)²) + codebook_weight · mean((vectors − sg(features))²).

    Args:
      features: float32, normalized encoder output.
      ids: the nearest words.
      vectors: float32, the (projected, differentiable) vectors of those words.
      codebook_weight: weight of the term that moves the projector.
    """
    stop = jax.lax.stop_gradient
    loss = jnp.mean((stop(vectors) - features) ** 2) + codebook_weight * jnp.mean(
        (vectors - stop(features)) ** 2
    )
    return Quantized(vectors=features + stop(vectors - features), ids=ids, loss=loss)


def nearest_global_words(
    embeddings: Float[Array, "batch d"], words: Float[Array, "word d"], k: int
) -> Int[Array, "batch k"]:
    """The k rows of `words` nearest to each embedding by Euclidean distance, nearest first. No
    gradient.

    Args:
      embeddings: float32 image embeddings, L2-normalized.
      words: float32 word vectors in the same space, of any length.
      k: words an image gets.
    """
    embeddings, words = jax.lax.stop_gradient((embeddings, words))
    _, ids = jax.lax.top_k(-_shifted_distances(embeddings, words, jnp.sum(words**2, axis=-1)), k)
    return ids.astype(jnp.int32)


def _shifted_distances(
    features: Float[Array, "n d"], words: Float[Array, "m d"], squared_lengths: Float[Array, " m"]
) -> Float[Array, "n m"]:
    """Squared distances less each feature's own squared length, which does not change which word is
    nearest.
    """
    return squared_lengths - 2.0 * jnp.dot(features, words.T, precision=jax.lax.Precision.HIGHEST)
