"""Starts the local codebook's projector where the encoder's features are, so that training begins with many words in use.

With the published initialization the features of an untrained encoder all point one way and share one nearest word; on a
large dataset training spreads them in time, on a small one it never does.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALLEST = 1e-6


def fit_projector(
    words: Float[Array, "words dim"], features: Float[Array, "features dim"]
) -> dict[str, Float[Array, "..."]]:
    """The affine map under which the words' mean and covariance become those of the features.

    Principal axes are paired in order of variance, words' to features'.

    Args:
      words: frozen local codebook.
      features: encoder features as the quantizer sees them, more than `dim` of them.

    Returns:
      {"kernel": [dim, dim], "bias": [dim]} of the projector, so that `words @ kernel + bias` lies where the features do.
    """
    word_mean, word_axes, word_spread = _principal_axes(words)
    feature_mean, feature_axes, feature_spread = _principal_axes(features)
    gain = feature_spread / jnp.maximum(word_spread, _SMALLEST * word_spread.max())
    kernel = (word_axes * gain) @ feature_axes.T
    return {"kernel": kernel, "bias": feature_mean - word_mean @ kernel}


def _principal_axes(rows: Float[Array, "rows dim"]) -> tuple[Any, Any, Any]:
    """Mean, principal axes as columns by falling variance, and the standard deviation along each."""
    rows = rows.astype(jnp.float32)
    mean = rows.mean(axis=0)
    variance, axes = jnp.linalg.eigh(jnp.cov(rows - mean, rowvar=False))
    return mean, axes[:, ::-1], jnp.sqrt(jnp.maximum(variance[::-1], 0.0))
