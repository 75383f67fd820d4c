"""Vectors divided by their Euclidean length, with the guards against zero that callers need."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def unit_vectors(
    vectors: Float[Array | np.ndarray, "*batch dim"], shortest: float = 0.0
) -> Float[Array | np.ndarray, "*batch dim"]:
    """Divides vectors by their length: on the host for numpy arrays, else in JAX.

    Args:
      vectors: along the last axis.
      shortest: a smaller length counts as this, so that zeros stay zeros; 0 divides by any length.
    """
    library = np if isinstance(vectors, np.ndarray) else jnp
    lengths = library.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / (library.maximum(lengths, shortest) if shortest else lengths)


def unit_features(features: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """Unit vectors in float32, as LPIPS defines them: the length grows by 1e-10.

    Zeros stay zeros, with a finite gradient, where the plain square root has none.
    """
    features = features.astype(jnp.float32)
    squared = jnp.sum(features**2, axis=-1, keepdims=True)
    return features / (jnp.sqrt(jnp.maximum(squared, 1e-30)) + 1e-10)


def reciprocal_lengths(vectors: Float[Array, "*batch dim"]) -> Float[Array, "*batch 1"]:
    """1 / √(squared length + 1e-12) of each vector."""
    return jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)
