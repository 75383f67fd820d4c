"""Resamplers: a fixed number of learned queries read all features of an image by cross-attention
and become the vectors that a language model sees.

"perceiver" is Flamingo's (Alayrac et al. 2022, arXiv 2204.14198, section 3.1.1): keys and values
are of the features and of the queries themselves. "qformer" is BLIP-2's (Li et al. 2023, arXiv
2301.12597, section 3.1), without its text: queries see each other in every layer, the features in
every second one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.standardised import standardised

FORMS = ("perceiver", "qformer")
_HEAD, _INNER = 64, 4
Params = Mapping[str, Any]


def init_resampler(
    key: Array, form: str, dim: int, hidden: int, queries: int, layers: int, mean: Any, scale: float
) -> dict[str, Any]:
    """Fresh parameters, as wide as the language model.

    Args:
      key: PRNG key.
      form: of `FORMS`.
      dim: of the features.
      hidden: width of the language model.
      queries: vectors an image.
      layers: of attention and MLP.
      mean, scale: where vectors begin, as for `connector.init_connector`.
    """
    keys = iter(jax.random.split(key, 3 + 12 * layers))
    matrix = lambda rows, columns: jax.random.normal(next(keys), (rows, columns)) * rows**-0.5
    attention = lambda: {name: matrix(hidden, hidden) for name in ("q", "k", "v", "o")}
    params: dict[str, Any] = {
        "queries": jax.random.normal(next(keys), (queries, hidden)) * 0.02,
        "features": matrix(dim, hidden),
        "kernel": matrix(hidden, hidden) * scale,
        "bias": jnp.asarray(mean, jnp.float32),
    }
    for layer in range(layers):
        own: dict[str, Any] = {"up": matrix(hidden, _INNER * hidden)}
        own["down"] = matrix(_INNER * hidden, hidden)
        if form == "qformer":
            own["self"] = attention()
        if form == "perceiver" or layer % 2 == 0:
            own["cross"] = attention()
        params[f"layer_{layer}"] = own
    return {form: params}


def perceiver(params: Params, features: Float[Any, "*batch n dim"]) -> Float[Array, "*batch q h"]:
    """Vectors of Flamingo's resampler; norms without parameters come before every product."""
    seen, x = _start(params, features)
    for layer in _layers(params):
        among = jnp.concatenate([seen, standardised(x)], axis=-2)
        x = x + _attend(layer["cross"], standardised(x), among)
        x = x + _mlp(layer, x)
    return _end(params, x)


def qformer(params: Params, features: Float[Any, "*batch n dim"]) -> Float[Array, "*batch q h"]:
    """Vectors of BLIP-2's Q-Former."""
    seen, x = _start(params, features)
    for layer in _layers(params):
        x = x + _attend(layer["self"], standardised(x), standardised(x))
        if "cross" in layer:
            x = x + _attend(layer["cross"], standardised(x), seen)
        x = x + _mlp(layer, x)
    return _end(params, x)


def products(params: Params, inputs: int) -> list[tuple[int, int, int]]:
    """(inner size, columns, rows) of the matrix products for one image of `inputs` patches."""
    dim, hidden = params["features"].shape
    queries = len(params["queries"])
    found = [(dim, hidden, inputs)]
    for layer in _layers(params):
        for name in ("self", "cross"):
            if name in layer:
                seen = queries if name == "self" else inputs
                seen += queries if name == "cross" and "self" not in layer else 0
                found += [(hidden, hidden, queries)] * 2 + [(hidden, hidden, seen)] * 2
                found += [(hidden, seen, queries)] * 2
        found += [(hidden, _INNER * hidden, queries), (_INNER * hidden, hidden, queries)]
    return [*found, (hidden, hidden, queries)]


def _start(params: Params, features: Any) -> tuple[Array, Array]:
    seen = standardised(
        _product(standardised(jnp.asarray(features, jnp.float32)), params["features"])
    )
    queries = jnp.asarray(params["queries"])
    return seen, jnp.broadcast_to(queries, (*seen.shape[:-2], *queries.shape))


def _end(params: Params, x: Array) -> Array:
    return _product(standardised(x), params["kernel"]) + params["bias"]


def _layers(params: Params) -> list[Any]:
    return [params[f"layer_{i}"] for i in range(sum(name.startswith("layer_") for name in params))]


def _mlp(layer: Params, x: Array) -> Array:
    return _product(
        jax.nn.gelu(_product(standardised(x), layer["up"]), approximate=False), layer["down"]
    )


def _attend(weights: Params, x: Array, seen: Array) -> Array:
    """Multi-head attention of x to what is seen, heads of 64."""
    heads = max(1, x.shape[-1] // _HEAD)
    cut = lambda y: y.reshape(*y.shape[:-1], heads, -1)
    q, k, v = (cut(_product(y, weights[n])) for n, y in (("q", x), ("k", seen), ("v", seen)))
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k, precision=EXACT) / np.sqrt(q.shape[-1])
    mixed = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), v, precision=EXACT)
    return _product(mixed.reshape(x.shape), weights["o"])


def _product(x: Array, matrix: Any) -> Array:
    return jnp.dot(x, matrix, precision=EXACT)
