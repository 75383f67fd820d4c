"""Straight-through quantization with a frozen codebook (Zhu et al. 2024, section 3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class Quantized:
    """What the local quantizer returns.

    Attributes:
      vectors: float32 [batch, h, w, d], the chosen words' vectors; gradients pass straight through
        to the features.
      ids: int32 [batch, h, w], the chosen words; [batch, h, w, n] of several codebooks.
      loss: float32 scalar.
    """

    vectors: Float[Any, "batch h w d"]
    ids: Int[Any, "batch h w *ids"]
    loss: Float[Any, ""]


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
