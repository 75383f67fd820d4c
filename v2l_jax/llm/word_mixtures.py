"""Vectors between words and continuous features: words with what they leave out of their patch
beside them, words in proportion to how near they are, several words at one position.

Features have the number of the word in front: [word, what else is known of the patch].
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.standardised import standardised

Params = Mapping[str, Any]


def residual(params: Params, features: Float[Any, "*batch n dim"]) -> Float[Array, "*batch n h"]:
    """E[c] + alpha W (x − centre of c): the word's row and, weighed by a learned number that starts
    at 0, what the centre leaves of the patch.

    Args:
      params: "rows" [words, hidden], "kernel" [kept, hidden], "alpha" [].
      features: the word's number, then x − centre.
    """
    beside = jnp.dot(jnp.asarray(features[..., 1:]), params["kernel"], precision=EXACT)
    return _row(params["rows"], features[..., 0]) + params["alpha"] * beside


def prefix(params: Params, features: Float[Any, "*batch n dim"]) -> Float[Array, "*batch n h"]:
    """Continuous vectors, W x + b, where the word's number is −1; rows of words elsewhere.

    Args:
      params: "rows" [words, hidden], "kernel" [dim, hidden], "bias" [hidden].
      features: the word's number or −1, then x or anything.
    """
    code, x = features[..., 0], jnp.asarray(features[..., 1:], jnp.float32)
    vectors = jnp.dot(standardised(x), params["kernel"], precision=EXACT) + params["bias"]
    return jnp.where((code < 0)[..., None], vectors, _row(params["rows"], jnp.maximum(code, 0)))


def probabilistic(
    params: Params, features: Float[Any, "*batch n dim"]
) -> Float[Array, "*batch n h"]:
    """Σ p(word | x) row, p = softmax(LayerNorm(x W) / temperature): Ovis (Lu et al. 2024, arXiv
    2405.20797, equation 3). A low temperature is the nearest word, a high one an adapter.

    Args:
      params: "rows" [words + marks, hidden], "kernel" [kept, words], "temperature" [], which does
        not train.
      features: −1, then the prepared features of a patch; or the number of a mark, which stands for
        its own row.
    """
    code, x = features[..., 0], jnp.asarray(features[..., 1:], jnp.float32)
    logits = standardised(jnp.dot(x, params["kernel"], precision=EXACT))
    share = jax.nn.softmax(logits / jax.lax.stop_gradient(params["temperature"]))
    words = params["rows"][: share.shape[-1]]
    mixed = jnp.dot(share, words, precision=EXACT)
    return jnp.where((code < 0)[..., None], mixed, _row(params["rows"], jnp.maximum(code, 0)))


def product(params: Params, features: Float[Any, "*batch n parts"]) -> Float[Array, "*batch n h"]:
    """The sum of a row of each part's table: product codes, one position a patch.

    Args:
      params: "rows" [parts, words, hidden].
      features: a word's number for each part.
    """
    tables = params["rows"]
    return sum((_row(tables[j], features[..., j]) for j in range(len(tables))), jnp.zeros(()))


def constant(
    params: Params, features: Float[Any, "*batch inputs dim"]
) -> Float[Array, "*batch n h"]:
    """Learned vectors that are the same for every image: a blind prefix."""
    shape = (*features.shape[:-2], *params["vectors"].shape)
    return jnp.broadcast_to(jnp.asarray(params["vectors"]), shape)


def products(params: Params, slots: int) -> list[tuple[int, int, int]]:
    """(inner size, columns, rows) of the matrix products for one image."""
    if "kernel" not in params:
        return []
    kept, columns = params["kernel"].shape
    words = [(columns, params["rows"].shape[1], slots)] if "temperature" in params else []
    return [(kept, columns, slots), *words]


def _row(rows: Any, numbers: Any) -> Array:
    return jnp.asarray(rows)[jnp.asarray(numbers).astype(jnp.int32)]
