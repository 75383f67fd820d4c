"""The language model: a decoder of the LLaMA family as a pure function of (params, tokens, cache).

LLaMA 1/2/3 (arXiv 2302.13971, 2307.09288, 2407.21783), SmolLM2, Mistral (arXiv 2310.06825), Qwen2
(arXiv 2407.10671).
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import CheckedTensors
from v2l_jax.formats.gguf_files import gguf_in, read_gguf
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.llm import llama_weights
from v2l_jax.llm.bfloat16_slices import floats, slices_bits, storage_dtype, stored, take
from v2l_jax.llm.llama_config import LlamaConfig, config_from_gguf, read_huggingface_config
from v2l_jax.llm.llama_sharding import place_params
from v2l_jax.llm.lora import Adapters, adapt
from v2l_jax.llm.segment_attention import Segment, attention, causal_attention
from v2l_jax.ops.matmul import einsum_in


class KVCache(NamedTuple):
    """Keys and values already computed: a pytree that `Llama` takes and returns, never changed in
    place. The type of its arrays is `Llama`'s own business; rows may be selected and joined.

    Attributes:
      keys: [layers, batch, length, kv_heads, head_dim], rotated.
      values: [layers, batch, length, kv_heads, head_dim].
      positions: int32 [batch, length], the position of the token in a slot; -1 for an empty slot.
      cursor: int32 scalar, the slot that is written next, the same in all rows.
    """

    keys: Array
    values: Array
    positions: Array
    cursor: Array


def init_cache(
    config: LlamaConfig, batch: int, length: int, dtype: DTypeLike = jnp.float32
) -> KVCache:
    """An empty cache with `length` slots a row, for a model that computes in `dtype`."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    dtype = storage_dtype(dtype)
    return KVCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        positions=jnp.full((batch, length), -1, jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
    )


def with_room(cache: KVCache, slots: int) -> KVCache:
    """A copy of the cache with empty slots after its last one."""
    pad = [(0, 0), (0, 0), (0, slots), (0, 0), (0, 0)]
    return KVCache(
        jnp.pad(cache.keys, pad),
        jnp.pad(cache.values, pad),
        jnp.pad(cache.positions, pad[1:3], constant_values=-1),
        cache.cursor,
    )


class Llama(nn.Module):
    """Decoder stack; layers are scanned, their parameters carry a leading layer axis.

    Parameters may hold two things more: "slots", float32 [rows, hidden], input embeddings of the
    ids from `vocab_size` on, which are never an output: new rows, and vectors in place of tokens;
    and "adapters", which stand in for the argument of that name, so that whoever calls the model
    need not know of them.

    Attributes:
      config: sizes.
      dtype: of the inputs of every matrix product; products accumulate, and norms, softmax and
        logits run, in float32.
      residual_dtype: of the residual stream.
    """

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    residual_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c, normal = self.config, nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", normal, (c.vocab_size, c.hidden_size), self.dtype)
        self.layers = self.param("layers", self._init_layers)
        self.final_norm = self.param(
            "final_norm", nn.initializers.ones, (c.hidden_size,), jnp.float32
        )
        self.slots = None
        if self.has_variable("params", "slots"):
            self.slots = self.get_variable("params", "slots")
        if not c.tied_embeddings:
            self.output = self.param("output", normal, (c.hidden_size, c.vocab_size), self.dtype)

    def _init_layers(self, key: Array) -> dict[str, Array]:
        c = self.config
        heads = (c.num_kv_heads, c.queries_per_kv + 2, c.head_dim)
        matrices = {
            "qkv": (c.hidden_size, *heads),  # each key/value head with its queries before it
            "attention_output": (c.num_heads * c.head_dim, c.hidden_size),
            "gate_up": (c.hidden_size, 2, c.intermediate_size),
            "down": (c.intermediate_size, c.hidden_size),
        }
        keys = jax.random.split(key, len(matrices))
        normal = nn.initializers.normal(0.02)
        layers = {
            name: normal(k, (c.num_layers, *shape), self.dtype)
            for k, (name, shape) in zip(keys, matrices.items())
        }
        layers |= {
            name: jnp.ones((c.num_layers, c.hidden_size)) for name in ("attention_norm", "mlp_norm")
        }
        return layers | ({"qkv_bias": jnp.zeros((c.num_layers, *heads))} if c.qkv_bias else {})

    def __call__(
        self,
        tokens: Int[Array, "batch length"] | None,
        positions: Int[Array, "batch length"],
        contexts: tuple[KVCache, ...] = (),
        cache: KVCache | None = None,
        keep: bool = False,
        inputs: Float[Array, "batch length hidden"] | None = None,
        adapters: Adapters | None = None,
    ) -> tuple[Float[Array, "batch length hidden"], KVCache | None]:
        """Hidden states of new tokens.

        Args:
          tokens: ids; ids at padding are ignored. An id from the vocabulary's size on stands for a
            row of the parameter "slots" [slots, hidden], where there is one: a vector in place of
            an embedding.
          positions: position of each token in its own sequence, counted from 0 with contexts
            included, ascending along a row; -1 is padding.
          contexts: read-only caches that the tokens see beside their own. A context's batch may
            divide that of the tokens: row r of n then serves the r-th n-th of the batch (one prefix
            shared by many prompts).
          cache: where the new keys and values are written, at its cursor; the tokens see what it
            held before. Room for them is the caller's to check. None: tokens see each other and the
            contexts.
          keep: without a cache, return the tokens' keys and values as a full one (`with_room` makes
            room for more).
          inputs: input embeddings in place of those of `tokens`, which may then be None.
          adapters: low-rank changes of the layers' projections, of any of `lora.PROJECTIONS`, their
            factor included (`lora.scaled`).

        Returns:
          Final hidden states (after the last norm; float32, meaningless at padding), and the cache
          with the tokens in it.
        """
        c, length = self.config, positions.shape[1]
        positions = positions.astype(jnp.int32)
        angles = jnp.maximum(positions, 0)[..., None] * jnp.asarray(
            c.inverse_frequencies, jnp.float32
        )
        rotation = (jnp.cos(angles), jnp.sin(angles))
        if cache is not None:
            written = lax.dynamic_update_slice(cache.positions, positions, (0, cache.cursor))
        by_bits = {name: w for name, w in self.layers.items() if slices_bits(w.dtype)}
        scanned = {name: w for name, w in self.layers.items() if name not in by_bits}
        kept_type = storage_dtype(self.dtype)

        def block(carry, xs):
            hidden, stacked = carry
            layer, weights, changes, shared = xs
            weights = weights | {name: take(w, layer) for name, w in by_bits.items()}
            queries, keys, values = project(c, weights, changes, hidden, rotation, self.dtype)
            segments = [
                Segment(floats(k), floats(v), context.positions)
                for (k, v), context in zip(shared, contexts)
            ]
            window = _window(c, layer)
            if cache is None:
                own = Segment(keys, values, positions)
                mixed = causal_attention(queries, positions, segments, own, window, self.dtype)
            else:
                start = (layer, 0, cache.cursor, 0, 0)
                stacked = tuple(
                    lax.dynamic_update_slice(s, stored(x[None], s.dtype), start)
                    for s, x in zip(stacked, (keys, values))
                )
                seen_keys, seen_values = (
                    floats(lax.dynamic_index_in_dim(s, layer, keepdims=False)) for s in stacked
                )
                segments.append(Segment(seen_keys, seen_values, written))
                mixed = attention(queries, positions, segments, window, self.dtype)
            out = matmul(mixed, weights["attention_output"], self.dtype)
            out = adapt(out, mixed, changes, {"o_proj": 1}, self.dtype)
            hidden = hidden + out.astype(self.residual_dtype)
            hidden = hidden + mlp(c, weights, changes, hidden, self.dtype).astype(
                self.residual_dtype
            )
            kept = tuple(stored(x, kept_type) for x in (keys, values))
            return (hidden, stacked), kept if keep and cache is None else None

        hidden = self.embedded(tokens) if inputs is None else inputs
        if adapters is None and self.has_variable("params", "adapters"):
            adapters = self.get_variable("params", "adapters")
        xs = (
            jnp.arange(c.num_layers),
            scanned,
            adapters or {},
            tuple((k.keys, k.values) for k in contexts),
        )
        carry = (
            hidden.astype(self.residual_dtype),
            None if cache is None else (cache.keys, cache.values),
        )
        # Where gradients are taken, a layer is computed again: on the CPU too, writing its
        # activations out takes longer.
        (hidden, stacked), kept = lax.scan(jax.checkpoint(block, prevent_cse=False), carry, xs)
        if cache is not None and stacked is not None:
            keys, values = stacked
            cache = KVCache(keys, values, written, cache.cursor + length)
        elif keep:
            keys, values = kept
            cache = KVCache(keys, values, positions, jnp.asarray(length, jnp.int32))
        return rms_norm(hidden, self.final_norm, c.norm_eps), cache

    def embedded(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length hidden"]:
        """Input embeddings of ids, "slots" included."""
        if self.slots is None:
            return take(self.embedding, tokens)
        size = self.config.vocab_size
        words = take(self.embedding, jnp.minimum(tokens, size - 1)).astype(jnp.float32)
        slots = self.slots.astype(jnp.float32)[jnp.maximum(tokens - size, 0)]
        return jnp.where((tokens >= size)[..., None], slots, words)

    def logits(self, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
        """Next-token logits, float32, of the hidden states that one wants them for."""
        matrix = self.embedding.T if self.config.tied_embeddings else self.output
        return matmul(hidden, matrix, self.dtype)


def project(
    config: LlamaConfig,
    weights: Mapping[str, Array],
    adapters: Adapters,
    hidden: Array,
    rotation: tuple[Array, Array],
    dtype: DTypeLike,
) -> tuple[Array, Array, Array]:
    """Scaled and rotated queries [batch, length, kv_heads, group, head_dim], rotated keys and
    values without the group.
    """
    matrix = weights["qkv"]
    normed = rms_norm(hidden, weights["attention_norm"], config.norm_eps)
    x = matmul(normed, matrix.reshape(config.hidden_size, -1), dtype)
    x = x.reshape(*x.shape[:2], *matrix.shape[1:])
    widths = {"q_proj": config.queries_per_kv, "k_proj": 1, "v_proj": 1}
    x = adapt(x, normed, adapters, widths, dtype)
    if config.qkv_bias:
        x = x + weights["qkv_bias"]
    rotated = _rotate(x[..., :-1, :], *rotation)
    queries = (rotated[..., :-1, :] * config.head_dim**-0.5).astype(dtype)
    return queries, rotated[..., -1, :].astype(dtype), x[..., -1, :].astype(dtype)


def mlp(
    config: LlamaConfig,
    weights: Mapping[str, Array],
    adapters: Adapters,
    hidden: Array,
    dtype: DTypeLike,
) -> Array:
    """Gated MLP (SwiGLU, arXiv 2002.05202)."""
    x = rms_norm(hidden, weights["mlp_norm"], config.norm_eps)
    gate_up = matmul(x, weights["gate_up"], dtype)
    gate_up = adapt(gate_up, x, adapters, {"gate_proj": 1, "up_proj": 1}, dtype)
    inner = nn.silu(gate_up[..., 0, :]) * gate_up[..., 1, :]
    return adapt(matmul(inner, weights["down"], dtype), inner, adapters, {"down_proj": 1}, dtype)


def _window(config: LlamaConfig, layer: Int[Array, ""]) -> Int[Array, ""] | None:
    """How many latest positions a query of this layer sees; None for all."""
    if config.sliding_window is None:
        return None
    return jnp.where(
        layer >= config.first_sliding_layer, config.sliding_window, jnp.iinfo(jnp.int32).max
    )


def matmul(x: Array, matrix: Array, dtype: DTypeLike) -> Array:
    """Product over the last axis of x and the first of the matrix, inputs in `dtype`, result in
    float32.
    """
    batch, out = "abcd"[: x.ndim - 1], "wxyz"[: matrix.ndim - 1]
    return einsum_in(f"{batch}k,k{out}->{batch}{out}", x, matrix, dtype)


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """Divides by the root mean square over the last axis, float32."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates halves of [batch, length, kv_heads, heads, head_dim] by angles [batch, length,
    head_dim / 2].
    """
    cos, sin = cos[:, :, None, None], sin[:, :, None, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def load_llama(
    path: pathlib.Path | str, dtype: DTypeLike = jnp.float32, mesh: Mesh | None = None
) -> tuple[LlamaConfig, dict[str, Any]]:
    """Reads a checkpoint of the LLaMA family.

    Args:
      path: a Hugging Face directory (config.json beside model.safetensors or its shards), a .gguf
        file, or a directory with one .gguf file.
      dtype: what matrices are stored in; norm scales and biases stay float32.
      mesh: where the parameters go, by `llama_sharding.TENSOR_RULES`; None is the default device.

    Returns:
      The sizes, and the parameters of `Llama(config, dtype)` as device arrays:
      `Llama.apply({"params": params}, ...)`.

    Raises:
      CheckpointError: neither layout is there, or tensors are missing or misshapen.
      ConfigError: an architecture or variant that is not supported.
    """
    path = _checkpoint(path)
    if path.is_dir():
        config = read_huggingface_config(path)
        tensors, names = read_safetensors(path), llama_weights.HUGGINGFACE_NAMES
        interleaved = False
    else:
        gguf = read_gguf(path)
        config = config_from_gguf(gguf.metadata, gguf.tensors, str(path))
        tensors, names = gguf.tensors, llama_weights.GGUF_NAMES
        interleaved = gguf.metadata["general.architecture"] == "llama"
    checked = CheckedTensors(tensors, str(path))
    checked.refuse_quantised()
    params = llama_weights.params_from_tensors(config, checked, names, dtype, interleaved)
    checked.refuse_unread(llama_weights.without_effect())
    return config, place_params(params, mesh)


def read_sizes(path: pathlib.Path | str) -> LlamaConfig:
    """The sizes of a checkpoint, without its weights; arguments and errors as in `load_llama`."""
    path = _checkpoint(path)
    if path.is_dir():
        return read_huggingface_config(path)
    gguf = read_gguf(path)
    return config_from_gguf(gguf.metadata, gguf.tensors)


def _checkpoint(path: pathlib.Path | str) -> pathlib.Path:
    """A Hugging Face directory, or a .gguf file, that of a directory included."""
    path = pathlib.Path(path)
    if path.is_dir() and not (path / "config.json").is_file():
        found = gguf_in(path)
        if found is None:
            raise CheckpointError(
                f"{path}: expected config.json with safetensors, or one .gguf file, found 0 .gguf "
                "files; check the path (Meta's own files, params.json beside consolidated.*.pth, "
                "are not read: take the repository that ends in -hf)"
            )
        return found
    return path
