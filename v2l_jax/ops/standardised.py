"""Vectors brought to mean zero and variance one: LayerNorm without parameters."""

from jaxtyping import Array, Float


def standardised(vectors: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Each vector less its mean, over its standard deviation, which 1e-6 keeps from 0.

    Args:
      vectors: along the last axis.
    """
    mean, deviation = vectors.mean(-1, keepdims=True), vectors.std(-1, keepdims=True)
    return (vectors - mean) / (deviation + 1e-6)
