"""Moves the local codebook to where the encoder's features are. Its words are frozen, so what moves
is their projector.

With the published initialization the features of an untrained encoder all point one way and share
one nearest word; on a large dataset training spreads them in time, on a small one it never does.
Three remedies, from the most to the least that they forget of what the projector has learned:

  fit_projector       a new map: mean and whole covariance become the features'; a data-dependent
                      start (Łańcucki et al. 2020)
  recenter_projector  the learned map, shifted and scaled in each dimension (the affine parameters
  of Huh et al. 2023) revive_words        the learned map, changed as far as brings unused words to
  their nearest features (Zheng & Vedaldi 2023)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from v2l_jax.ops.nearest import nearest_row
from v2l_jax.ops.precision import EXACT, products_in

_SMALLEST = 1e-6
_MOST_TARGETS = 8192
_RIDGE = 1e-4

Projector = dict[str, Float[Array, "..."]]
"""{"kernel": [dim, dim], "bias": [dim]}: a word's vector is `word @ kernel + bias`."""


def fit_projector(
    words: Float[Array, "words dim"], features: Float[Array, "features dim"]
) -> Projector:
    """The affine map under which the words' mean and covariance become those of the features.

    Principal axes are paired in order of variance, words' to features'.

    Args:
      words: frozen local codebook.
      features: encoder features as the quantizer sees them, more than `dim` of them.

    Returns:
      The projector that puts the words where the features lie.
    """
    word_mean, word_axes, word_spread = _principal_axes(words)
    feature_mean, feature_axes, feature_spread = _principal_axes(features)
    gain = feature_spread / jnp.maximum(word_spread, _SMALLEST * word_spread.max())
    kernel = _product(word_axes * gain, feature_axes.T)
    return {"kernel": kernel, "bias": feature_mean - jnp.dot(word_mean, kernel, precision=EXACT)}


def recenter_projector(
    projector: Projector, words: Float[Array, "words dim"], features: Float[Array, "features dim"]
) -> Projector:
    """The projector shifted and scaled so that the projected words have the features' mean and
    deviation in each dimension.

    Args:
      projector: as it is.
      words: frozen local codebook.
      features: encoder features as the quantizer sees them.
    """
    projected = _product(words, projector["kernel"])
    scale = jnp.maximum(features.std(axis=0), _SMALLEST) / jnp.maximum(
        projected.std(axis=0), _SMALLEST
    )
    return {
        "kernel": projector["kernel"] * scale,
        "bias": features.mean(axis=0) - projected.mean(axis=0) * scale,
    }


def revive_words(
    projector: Projector,
    words: Float[Array, "words dim"],
    features: Float[Array, "features dim"],
    used: Bool[Array, " words"],
) -> Projector:
    """The projector changed by the ridge regression that asks each unused word to go to its nearest
    feature, each used one to stay.

    One map moves all words, so few get all the way: it is the least-squares compromise, one step of
    an affine registration (ICP).

    Args:
      projector: as it is.
      words: frozen local codebook.
      features: encoder features as the quantizer sees them; evenly spaced ones where there are
        many.
      used: which words are in use.
    """
    features = features[:: -(-len(features) // _MOST_TARGETS)]
    projected = _product(words, projector["kernel"]) + projector["bias"]
    wishes = jnp.where(
        used[:, None], 0.0, features[nearest_row(projected, features, block_size=1024)] - projected
    )
    inputs = jnp.concatenate([words, jnp.ones_like(words[:, :1])], axis=1)
    moments = _product(inputs.T, inputs)
    ridge = _RIDGE * jnp.trace(moments) / len(moments) * jnp.eye(len(moments))
    change = jax.scipy.linalg.solve(moments + ridge, _product(inputs.T, wishes), assume_a="pos")
    return {"kernel": projector["kernel"] + change[:-1], "bias": projector["bias"] + change[-1]}


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    return jnp.dot(a, b, precision=EXACT)


def _principal_axes(rows: Float[Array, "rows dim"]) -> tuple[Any, Any, Any]:
    """Mean, principal axes as columns by falling variance, and the standard deviation along
    each.
    """
    rows = rows.astype(jnp.float32)
    mean = rows.mean(axis=0)
    with products_in(jnp.float32):
        covariance = jnp.cov(rows - mean, rowvar=False)
    variance, axes = jnp.linalg.eigh(covariance)
    return mean, axes[:, ::-1], jnp.sqrt(jnp.maximum(variance[::-1], 0.0))
