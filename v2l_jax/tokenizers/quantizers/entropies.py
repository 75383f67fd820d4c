"""Entropies of soft assignments, of single features and of a batch's mean, in nats."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SMALLEST = 1e-30


def entropy_of_logits(
    logits: Float[Array, "*position choice"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(E[H(p)], H(E[p])) of p = softmax(logits), E over all positions."""
    log_shares = jax.nn.log_softmax(logits)
    shares = jnp.exp(log_shares)
    each = -jnp.sum(shares * log_shares, axis=-1)
    return jnp.mean(each), entropy(jnp.mean(shares, axis=range(shares.ndim - 1)))


def entropy(shares: Float[Array, "*position choice"]) -> Float[Array, "*position"]:
    """−Σ p log p over the last axis; 0 · log 0 is 0."""
    return -jnp.sum(shares * jnp.log(jnp.maximum(shares, _SMALLEST)), axis=-1)


def bit_entropies(
    features: Float[Array, "*position bits"], level: float, temperature: float, group: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(E[H(p)], H of the mean p) over codes of bits, with p = softmax(2 · features · code /
    temperature), code ∈ {± level}^bits.

    The bits are independent given a feature, so the first is exact; the second is a sum over groups
    of bits, each with a table of its 2^group codes, and so at least the entropy of the whole.

    Args:
      features: what is compared with the codes.
      level: absolute value of a code's numbers.
      temperature: less is surer.
      group: bits a group; divides the bits.
    """
    log_odds = 4.0 * level / temperature * features
    each = jax.nn.softplus(log_odds) - log_odds * jax.nn.sigmoid(log_odds)
    codes = level * np.asarray(list(itertools.product((-1.0, 1.0), repeat=group)), np.float32)
    groups = features.reshape(-1, features.shape[-1] // group, group)
    logits = jnp.einsum("ngb,cb->ngc", groups, codes, precision=jax.lax.Precision.HIGHEST)
    mean = jnp.mean(jax.nn.softmax(2.0 / temperature * logits), axis=0)
    return jnp.mean(jnp.sum(each, axis=-1)), jnp.sum(entropy(mean))
