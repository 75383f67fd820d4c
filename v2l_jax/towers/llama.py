"""The frozen language model: a decoder of the LLaMA family as a pure function of (params, tokens, cache).

LLaMA 1/2/3 (arXiv 2302.13971, 2307.09288, 2407.21783), SmolLM2, Mistral (arXiv 2310.06825), Qwen2 (arXiv 2407.10671).
Parameters are frozen: nothing here makes gradients or optimizer state for them.
"""

import json
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.errors import CheckpointError
from v2l_jax.towers import llama_weights
from v2l_jax.towers.llama_config import LlamaConfig, config_from_gguf, config_from_huggingface
from v2l_jax.weights.gguf_files import read_gguf
from v2l_jax.weights.safetensors_files import read_safetensors

_MASKED = -1e30


class KVCache(NamedTuple):
    """Keys and values already computed; a pytree that goes in and comes out, never changed in place.

    Attributes:
      keys: [layers, batch, length, kv_heads, head_dim], rotated.
      values: [layers, batch, length, kv_heads, head_dim].
      positions: int32 [batch, length], the position of what a slot holds; -1 for nothing.
      cursor: int32 scalar, the slot that is written next, the same in all rows.
    """

    keys: Array
    values: Array
    positions: Array
    cursor: Array


def init_cache(config: LlamaConfig, batch: int, length: int, dtype: DTypeLike = jnp.float32) -> KVCache:
    """An empty cache with `length` slots a row."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    return KVCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        positions=jnp.full((batch, length), -1, jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
    )


class _Segment(NamedTuple):
    """Keys that some queries attend to: `rows` may divide the batch, then consecutive queries share a row."""

    keys: Array  # [rows, length, kv_heads, head_dim]
    values: Array
    positions: Array  # [rows, length]


class Llama(nn.Module):
    """Decoder stack; layers are scanned, parameters carry a leading layer axis.

    Attributes:
      config: sizes.
      dtype: of the inputs of every matrix product; products accumulate, and norms, softmax and logits run, in float32.
      residual_dtype: of the residual stream.
    """

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    residual_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c = self.config
        normal = nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", normal, (c.vocab_size, c.hidden_size), self.dtype)
        self.layers = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            length=c.num_layers,
        )(c, self.dtype, self.residual_dtype)
        self.final_norm = self.param("final_norm", nn.initializers.ones, (c.hidden_size,), jnp.float32)
        if not c.tied_embeddings:
            self.output = self.param("output", normal, (c.hidden_size, c.vocab_size), self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        contexts: tuple[KVCache, ...] = (),
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "batch length hidden"], KVCache | None]:
        """Hidden states of new tokens.

        Args:
          tokens: ids; whatever stands at padding is ignored.
          positions: position of each token in its own sequence, counted from 0 with contexts included; -1 is padding.
          contexts: read-only caches that the tokens see beside their own. A context's batch may divide that of the
            tokens: row r of n then serves the r-th n-th of the batch (one prefix shared by many prompts).
          cache: where the new keys and values are written, at its cursor; the tokens see what it held before.
            Room for them is the caller's to check. None: tokens see each other and the contexts.

        Returns:
          Final hidden states (after the last norm; float32, meaningless at padding), and the cache with the tokens in it.
        """
        hidden = jnp.take(self.embedding, tokens, axis=0).astype(self.residual_dtype)
        if cache is None:
            own_positions, carried, cursor = positions, None, None
        else:
            cursor = cache.cursor
            own_positions = lax.dynamic_update_slice(cache.positions, positions.astype(jnp.int32), (0, cursor))
            carried = (cache.keys, cache.values)
        angles = jnp.maximum(positions, 0)[..., None] * jnp.asarray(self.config.inverse_frequencies, jnp.float32)
        rotation = (jnp.cos(angles), jnp.sin(angles))
        where = (positions, own_positions, tuple(c.positions for c in contexts), cursor)
        (hidden, carried), _ = self.layers(
            (hidden, carried),
            jnp.arange(self.config.num_layers),
            tuple((c.keys, c.values) for c in contexts),
            rotation,
            where,
        )
        if cache is not None:
            cache = KVCache(*carried, own_positions, cursor + tokens.shape[1])
        return _rms_norm(hidden, self.final_norm, self.config.norm_eps), cache

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
        """Next-token logits, float32, of the hidden states that one wants them for."""
        matrix = self.embedding.T if self.config.tied_embeddings else self.output
        return _matmul(hidden, matrix, self.dtype)


class _Block(nn.Module):
    config: LlamaConfig
    dtype: DTypeLike
    residual_dtype: DTypeLike

    @nn.compact
    def __call__(self, carry, layer, contexts, rotation, where):
        c, normal = self.config, nn.initializers.normal(0.02)
        hidden, cache = carry
        heads = (c.num_kv_heads, c.queries_per_kv + 2, c.head_dim)
        qkv = self.param("qkv", normal, (c.hidden_size, *heads), self.dtype)
        output = self.param("attention_output", normal, (c.num_heads * c.head_dim, c.hidden_size), self.dtype)
        gate_up = self.param("gate_up", normal, (c.hidden_size, 2, c.intermediate_size), self.dtype)
        down = self.param("down", normal, (c.intermediate_size, c.hidden_size), self.dtype)
        scales = [self.param(n, nn.initializers.ones, (c.hidden_size,), jnp.float32) for n in ("attention_norm", "mlp_norm")]

        x = _matmul(_rms_norm(hidden, scales[0], c.norm_eps), qkv.reshape(c.hidden_size, -1), self.dtype)
        x = x.reshape(*x.shape[:2], *heads)
        if c.qkv_bias:
            x = x + self.param("qkv_bias", nn.initializers.zeros, heads, jnp.float32)
        x, cache = self._attend(x, cache, layer, contexts, rotation, where)
        hidden = hidden + _matmul(x, output, self.dtype).astype(self.residual_dtype)

        x = _matmul(_rms_norm(hidden, scales[1], c.norm_eps), gate_up.reshape(c.hidden_size, -1), self.dtype)
        gate, up = jnp.split(x, 2, axis=-1)
        hidden = hidden + _matmul(nn.silu(gate) * up, down, self.dtype).astype(self.residual_dtype)
        return (hidden, cache), None

    def _attend(self, qkv, cache, layer, contexts, rotation, where):
        positions, own_positions, context_positions, cursor = where
        rotated = _rotate(qkv[..., :-1, :], *rotation).astype(self.dtype)
        queries, keys = rotated[..., :-1, :], rotated[..., -1, :]
        values = qkv[..., -1, :].astype(self.dtype)
        if cache is not None:
            start = (layer, 0, cursor, 0, 0)
            cache = tuple(lax.dynamic_update_slice(old, new[None].astype(old.dtype), start) for old, new in zip(cache, (keys, values)))
            keys, values = (lax.dynamic_index_in_dim(stacked, layer, keepdims=False) for stacked in cache)
        segments = [_Segment(*kv, p) for kv, p in zip(contexts, context_positions)] + [_Segment(keys, values, own_positions)]
        window = self.config.sliding_window
        if window is not None:
            window = jnp.where(layer >= self.config.first_sliding_layer, window, jnp.iinfo(jnp.int32).max)
        return _attention(queries, positions, segments, window, self.dtype), cache


def _matmul(x: Array, matrix: Array, dtype: DTypeLike) -> Array:
    """Product over the last axis of x, inputs in `dtype`, result in float32."""
    return lax.dot_general(
        x.astype(dtype),
        matrix.astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=_precision(dtype),
        preferred_element_type=jnp.float32,
    )


def _precision(dtype: DTypeLike) -> lax.Precision:
    """float32 means float32 on accelerators too, whose default is a faster, coarser product."""
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else lax.Precision.DEFAULT


def _rms_norm(x: Array, scale: Array, eps: float) -> Array:
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates halves of [batch, length, kv_heads, heads, head_dim] by angles [batch, length, head_dim / 2]."""
    cos, sin = cos[:, :, None, None], sin[:, :, None, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(
    queries: Float[Array, "batch length kv_heads group dim"],
    positions: Int[Array, "batch length"],
    segments: list[_Segment],
    window: Int[Array, ""] | None,
    dtype: DTypeLike,
) -> Float[Array, "batch length width"]:
    """Causal attention over several key segments as if they were one, without concatenating or repeating keys.

    Each segment's softmax is taken with its own maximum, then the parts are rescaled to the common one
    (online softmax: Milakov & Gimelshein, arXiv 1805.02867).
    """
    batch, length, kv_heads, group, dim = queries.shape
    parts = [_partial_attention(queries, positions, segment, window, dtype) for segment in segments]
    peak = parts[0][0]
    for part in parts[1:]:
        peak = jnp.maximum(peak, part[0])
    scale = [jnp.exp(part[0] - peak) for part in parts]
    total = sum(part[1] * s for part, s in zip(parts, scale))
    out = sum(part[2] * s for part, s in zip(parts, scale)) / total
    return out.reshape(batch, length, kv_heads * group * dim)


def _partial_attention(queries, positions, segment, window, dtype):
    """Peak score, sum of exponentials and weighted values of one segment, each [batch, length, kv_heads, group, 1 or dim]."""
    batch, length, kv_heads, group, dim = queries.shape
    rows = segment.keys.shape[0]
    shared = lambda x: x.reshape(rows, batch // rows, *x.shape[1:])  # noqa: E731
    scores = jnp.einsum(
        "nrskgd,ntkd->nkrsgt", shared(queries), segment.keys.astype(dtype),
        precision=_precision(dtype), preferred_element_type=jnp.float32,
    ) * dim**-0.5  # fmt: skip
    query_at, key_at = shared(positions)[..., None], segment.positions[:, None, None, :]
    seen = (key_at >= 0) & (key_at <= query_at)
    if window is not None:
        seen &= query_at - key_at < window
    scores = jnp.where(seen[:, None, :, :, None, :], scores, _MASKED)
    peak = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - peak)
    mixed = jnp.einsum(
        "nkrsgt,ntkd->nkrsgd", weights.astype(dtype), segment.values.astype(dtype),
        precision=_precision(dtype), preferred_element_type=jnp.float32,
    )  # fmt: skip
    by_row = lambda x: jnp.moveaxis(x, 1, 3).reshape(batch, length, kv_heads, group, -1)  # noqa: E731
    return by_row(peak), by_row(weights.sum(-1, keepdims=True)), by_row(mixed)


def load_llama(path: pathlib.Path | str, dtype: DTypeLike = jnp.float32) -> tuple[LlamaConfig, dict[str, Any]]:
    """Reads a checkpoint of the LLaMA family.

    Args:
      path: a Hugging Face directory (config.json beside model.safetensors or its shards), a .gguf file, or a directory with
        one .gguf file.
      dtype: what matrices are stored in; norm scales and biases stay float32.

    Returns:
      The sizes, and the parameters of `Llama(config, dtype)` as device arrays: `Llama.apply({"params": params}, ...)`.

    Raises:
      CheckpointError: neither layout is there, or tensors are missing or misshapen.
      ConfigError: an architecture or variant that is not supported.
    """
    path = pathlib.Path(path)
    if path.is_dir() and not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise CheckpointError(f"{path}: expected config.json with safetensors, or one .gguf file, found {len(found)} .gguf files; check the path")
        path = found[0]
    if path.is_dir():
        config = config_from_huggingface(json.loads((path / "config.json").read_text()))
        tensors, names = read_safetensors(path), llama_weights.HUGGINGFACE_NAMES
        interleaved = False
    else:
        gguf = read_gguf(path)
        config = config_from_gguf(gguf.metadata, gguf.tensors)
        tensors, names = gguf.tensors, llama_weights.GGUF_NAMES
        interleaved = gguf.metadata["general.architecture"] == "llama"
    params = llama_weights.params_from_tensors(config, tensors, names, dtype, interleaved)
    return config, jax.tree.map(jnp.asarray, params)
