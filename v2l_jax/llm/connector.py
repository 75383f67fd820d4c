"""The network between image features and a language model's input embedding: LLaVA's linear map or
two-layer MLP (Liu et al. 2023, arXiv 2304.08485 and 2310.03744), whose parameters lie flat; or
another of `NETWORKS`, whose parameters lie under its name.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import CheckpointError
from v2l_jax.llm import resampler, word_mixtures
from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.standardised import standardised


def init_connector(
    key: Array, dim: int, hidden: int, layers: int, mean: Any, scale: float
) -> dict[str, Array]:
    """Fresh parameters; vectors begin about the mean of the model's own rows, as long as these.

    Args:
      key: PRNG key.
      dim: of the features.
      hidden: width of the language model.
      layers: 1, linear, or 2, with GELU between.
      mean: of the language model's rows.
      scale: root mean square of the rows' numbers about their mean.
    """
    first, last = jax.random.split(key)
    normal = lambda k, rows, size: jax.random.normal(k, (rows, hidden)) * size * rows**-0.5
    end = {"bias": jnp.asarray(mean, jnp.float32)}
    if layers == 1:
        return {"kernel": normal(first, dim, scale), **end}
    middle = {"kernel_in": normal(first, dim, 1.0), "bias_in": jnp.zeros(hidden)}
    return {**middle, "kernel": normal(last, hidden, scale), **end}


def connect(
    params: Mapping[str, Any], features: Float[Any, "*batch inputs dim"]
) -> Float[Array, "*batch vectors hidden"]:
    """Vectors in place of input embeddings, one for each of the features but where `NETWORKS` says
    otherwise.
    """
    kind, own = _named(params)
    return mlp(own, features) if kind is None else NETWORKS[kind](own, features)


def mlp(params: Mapping[str, Any], features: Float[Any, "*n dim"]) -> Float[Array, "*n hidden"]:
    """A linear map, or two with GELU between, of features that are normalised to mean zero and
    variance one over each vector.
    """
    x = standardised(jnp.asarray(features, jnp.float32))
    product = functools.partial(jnp.dot, precision=EXACT)
    if "kernel_in" in params:
        x = product(x, params["kernel_in"]) + params["bias_in"]
        x = jax.nn.gelu(x, approximate=False)
    return product(x, params["kernel"]) + params["bias"]


NETWORKS: dict[str, Callable[[Mapping[str, Any], Any], Array]] = {
    "perceiver": resampler.perceiver,
    "qformer": resampler.qformer,
    "residual": word_mixtures.residual,
    "prefix": word_mixtures.prefix,
    "probabilistic": word_mixtures.probabilistic,
    "product": word_mixtures.product,
    "constant": word_mixtures.constant,
}
"""Networks by name; the resamplers and `constant` give as many vectors as they have queries."""


def matrix_products(params: Mapping[str, Any], inputs: int) -> list[tuple[int, int, int]]:
    """(inner size, columns, rows) of the matrix products for one image of `inputs` features, the
    one that reads the features first.
    """
    kind, own = _named(params)
    if kind in resampler.FORMS:
        return resampler.products(own, inputs)
    if kind is not None:
        return word_mixtures.products(own, inputs)
    names = ("kernel_in", "kernel") if "kernel_in" in own else ("kernel",)
    return [(*own[name].shape, inputs) for name in names]


def _named(params: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Which network parameters are of, None for the flat ones, and its own."""
    kind = next(iter(params)) if len(params) == 1 else None
    return (kind, params[kind]) if kind in NETWORKS else (None, params)


def save_connector(path: str | os.PathLike, params: Mapping[str, Any]) -> None:
    """Writes one safetensors file, whole or not at all."""
    flat = flatten_dict(dict(params), sep="/")
    arrays = {name: np.ascontiguousarray(np.asarray(x, np.float32)) for name, x in flat.items()}
    with atomic_write(path) as draft:
        safetensors.numpy.save_file(arrays, draft)


def load_connector(path: str | os.PathLike) -> dict[str, Any]:
    """What `save_connector` wrote.

    Raises:
      CheckpointError: the file is missing, or no connector.
    """
    try:
        params = safetensors.numpy.load_file(pathlib.Path(path))
    except (OSError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"cannot read the connector {path}: {error}; run the finetune job first: "
            "--config.jobs=finetune"
        ) from error
    if next(iter(params), "").partition("/")[0] in NETWORKS:
        return unflatten_dict(params, sep="/")
    inner = {"kernel_in", "bias_in"} & params.keys()
    fits = {"kernel", "bias"} <= params.keys() and len(inner) in (0, 2)
    for kernel, bias in (("kernel", "bias"), ("kernel_in", "bias_in"))[: 1 + bool(inner)]:
        shape = params[kernel].shape if fits else ()
        fits = fits and len(shape) == 2 and params[bias].shape == shape[1:]
    if not fits:
        raise CheckpointError(f"{path} holds no connector; run the finetune job again")
    return params
