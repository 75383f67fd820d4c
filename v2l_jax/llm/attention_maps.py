"""Where a language model's tokens look: attention of every layer and head, and what can be said
with it of one answer.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from v2l_jax.llm.bfloat16_slices import slices_bits, take
from v2l_jax.llm.llama import Llama, matmul, mlp, project, rms_norm
from v2l_jax.llm.lora import adapt
from v2l_jax.ops.precision import EXACT

SINK = 0.3
"""The share of attention from which on a token is a sink (Gu et al. 2025, arXiv 2410.10781)."""


class AttentionMaps(NamedTuple):
    """Of one text.

    Attributes:
      shares: [layers, heads, length, length], how much a token (row) takes of each one before it
        and of itself; rows sum to 1.
      hidden: [length, hidden], final states, as `Llama` gives them.
    """

    shares: Float[Any, "layers heads length length"]
    hidden: Float[Any, "length hidden"]


def attention_maps(
    model: Llama, params: Mapping[str, Any], tokens: Int[Any, " length"]
) -> AttentionMaps:
    """Attention of one text under a model, which may have adapters and slots among its parameters.

    Sliding windows are left out: the text must be shorter than one.

    Args:
      model: the network.
      params: of `Llama`.
      tokens: ids.
    """
    return _maps(model, dict(params), jnp.asarray(tokens, jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def _maps(model: Llama, params: dict[str, Any], tokens: Array) -> AttentionMaps:
    c, length = model.config, tokens.shape[0]
    angles = jnp.arange(length)[None, :, None] * jnp.asarray(c.inverse_frequencies, jnp.float32)
    rotation = (jnp.cos(angles), jnp.sin(angles))
    seen = jnp.tril(jnp.ones((length, length), bool))
    layers = params["layers"]
    by_bits = {name: w for name, w in layers.items() if slices_bits(w.dtype)}
    scanned = {name: w for name, w in layers.items() if name not in by_bits}

    def block(hidden: Array, xs: Any) -> tuple[Array, Array]:
        layer, weights, changes = xs
        weights = weights | {name: take(w, layer) for name, w in by_bits.items()}
        queries, keys, values = project(c, weights, changes, hidden, rotation, model.dtype)
        queries, keys, values = (x[0].astype(jnp.float32) for x in (queries, keys, values))
        scores = jnp.einsum("qkgd,skd->kgqs", queries, keys, precision=EXACT)
        shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        mixed = jnp.einsum("kgqs,skd->qkgd", shares, values, precision=EXACT)
        mixed = mixed.reshape(1, length, -1)
        out = matmul(mixed, weights["attention_output"], model.dtype)
        out = adapt(out, mixed, changes, {"o_proj": 1}, model.dtype)
        hidden = hidden + out.astype(model.residual_dtype)
        inner = mlp(c, weights, changes, hidden, model.dtype)
        hidden = hidden + inner.astype(model.residual_dtype)
        return hidden, shares.reshape(-1, length, length)

    start: Any = model.apply({"params": params}, tokens[None], method="embedded")
    changes = params.get("adapters") or {}
    xs = (jnp.arange(c.num_layers), scanned, changes)
    hidden, shares = jax.lax.scan(block, start.astype(model.residual_dtype), xs)
    return AttentionMaps(shares, rms_norm(hidden, params["final_norm"], c.norm_eps)[0])


def sinks(maps: AttentionMaps, least: float = SINK) -> Bool[np.ndarray, " length"]:
    """Tokens that collect attention without saying anything: those that get this share of the
    attention of all tokens after them, in the mean over layers and heads.
    """
    mean = np.tril(np.asarray(maps.shares, np.float64).mean((0, 1)), -1)
    later = np.arange(len(mean))[::-1]
    return mean.sum(0) / np.maximum(later, 1) >= least


def rollout(
    maps: AttentionMaps, without: Bool[np.ndarray, " length"]
) -> Float[np.ndarray, "length length"]:
    """How much of each token reaches each other one through all layers: the product of half the
    heads' mean attention and half the token itself (Abnar & Zuidema 2020, arXiv 2005.00928).

    Args:
      maps: of a text.
      without: tokens that nothing but themselves may look at, such as sinks.
    """
    length = len(without)
    own, reached = np.eye(length), np.eye(length)
    for shares in np.asarray(maps.shares, np.float64):
        mean = np.where(without[None, :] & (own == 0), 0.0, shares.mean(0))
        mixed = 0.5 * mean + 0.5 * own
        reached = mixed / mixed.sum(1, keepdims=True) @ reached
    return reached
