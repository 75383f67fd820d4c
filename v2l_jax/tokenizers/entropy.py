"""The entropy regulariser of the codebook: each feature sure of its word, all words used alike (Yu
et al. 2024, MAGVIT-v2).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from v2l_jax.ops.precision import EXACT
from v2l_jax.parallel.mesh import TENSOR_AXIS, batch_sharding, batch_shards

_SMALLEST = 1e-30


def entropy_loss(
    features: Float[Array, "batch h w d"],
    words: Float[Array, "word d"],
    temperature: float,
    mesh: Mesh | None = None,
    tokens_at_once: int = 512,
) -> Float[Array, ""]:
    """E[H(p)] − H(E[p]) in nats, p = softmax(−squared distance / temperature) over the words, E
    over all tokens of the batch.

    It lies between −log(words), each token sure of a word and all words equally frequent, and 0,
    all tokens alike. Gradients flow to features and words. Memory holds [tokens_at_once, word]
    probabilities a device, never [token, word]: the backward pass computes them again.

    Args:
      features: float32, what the quantizer sees.
      words: float32, projected.
      temperature: of the soft assignment, in squared distance.
      mesh: as in `ops.nearest.nearest_row`: tokens are split over its batch axes, words over
        "tensor", sums go over both.
      tokens_at_once: at most so many at a time, and at least one a picture.
    """
    batch, dim = len(features), features.shape[-1]
    positions = math.prod(features.shape[1:-1])
    rows = batch // math.gcd(batch, batch_shards(mesh)) if mesh else batch
    at_once = max(
        n
        for n in range(1, positions + 1)
        if positions % n == 0 and (n == 1 or n * rows <= tokens_at_once)
    )
    parts = features.reshape(batch, positions // at_once, at_once, dim).transpose(1, 2, 0, 3)
    words = _split(words, mesh, TENSOR_AXIS, None)
    across = batch_sharding(mesh).spec[0] if mesh else None
    squares = jnp.sum(words**2, axis=-1)

    def visit(
        sums: tuple[jax.Array, jax.Array], part: Float[Array, "position batch d"]
    ) -> tuple[Any, None]:
        products = jnp.einsum("pbd,wd->pbw", part, words, precision=EXACT)
        logits = _split((2.0 * products - squares) / temperature, mesh, None, across, TENSOR_AXIS)
        log_shares = jax.nn.log_softmax(logits)
        shares = jnp.exp(log_shares)
        entropies, histogram = sums
        return (
            entropies - jnp.sum(shares * log_shares),
            histogram + jnp.sum(shares, axis=(0, 1)),
        ), None

    start = (jnp.zeros(()), jnp.zeros(len(words)))
    (entropies, histogram), _ = jax.lax.scan(jax.checkpoint(visit), start, parts)
    mean = histogram / (batch * positions)
    return entropies / (batch * positions) + jnp.sum(mean * jnp.log(jnp.maximum(mean, _SMALLEST)))


def _split(x: jax.Array, mesh: Mesh | None, *axes: Any) -> jax.Array:
    return (
        x
        if mesh is None
        else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))
    )
