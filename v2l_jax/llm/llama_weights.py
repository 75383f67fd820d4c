"""Weights of foreign LLaMA checkpoints as the parameter tree of `llm.llama`: name maps as data,
fusing, stacking.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import Tensors
from v2l_jax.llm.llama_config import LlamaConfig

HUGGINGFACE_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "output": "lm_head.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "query": "model.layers.{}.self_attn.q_proj.weight",
    "key": "model.layers.{}.self_attn.k_proj.weight",
    "value": "model.layers.{}.self_attn.v_proj.weight",
    "query_bias": "model.layers.{}.self_attn.q_proj.bias",
    "key_bias": "model.layers.{}.self_attn.k_proj.bias",
    "value_bias": "model.layers.{}.self_attn.v_proj.bias",
    "attention_output": "model.layers.{}.self_attn.o_proj.weight",
    "mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
}

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "output": "output.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "query": "blk.{}.attn_q.weight",
    "key": "blk.{}.attn_k.weight",
    "value": "blk.{}.attn_v.weight",
    "query_bias": "blk.{}.attn_q.bias",
    "key_bias": "blk.{}.attn_k.bias",
    "value_bias": "blk.{}.attn_v.bias",
    "attention_output": "blk.{}.attn_output.weight",
    "mlp_norm": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
}


def without_effect() -> list[str]:
    """Patterns of tensors that a checkpoint may hold and that change nothing."""
    return [
        r"(model\.layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)",
        r"model\.rotary_emb\.\w+",
        r"rope_freqs\.weight",  # part of `LlamaConfig.inverse_frequencies`
    ]


def params_from_tensors(
    config: LlamaConfig,
    tensors: Tensors,
    names: Mapping[str, str],
    dtype: DTypeLike,
    interleaved_rotary: bool = False,
) -> dict[str, Any]:
    """Builds the (frozen) parameter tree of `Llama` from a checkpoint's tensors, orientation (out,
    in).

    Args:
      config: the network's sizes.
      tensors: arrays by the checkpoint's names; each is asked for once.
      names: HUGGINGFACE_NAMES or GGUF_NAMES.
      dtype: what matrices are stored in; norm scales and biases stay float32.
      interleaved_rotary: rows of q and k hold the two members of a rotary pair side by side (GGUF's
        "llama" architecture) instead of half a head apart.

    Returns:
      Numpy tree; layers are stacked on a leading axis, query/key/value and gate/up are fused.

    Raises:
      CheckpointError: a tensor is missing or has another shape than the config says.
    """

    def read(name: str, *shape: int, layer: int | None = None) -> np.ndarray:
        full = names[name].format(layer)
        if full not in tensors:
            raise CheckpointError(
                f"tensor {full!r} is missing from the LLaMA checkpoint; {_remedy(full, tensors)}"
            )
        tensor = tensors[full]
        if tensor.shape != shape:
            raise CheckpointError(
                f"tensor {full!r} has shape {tensor.shape}, the config says {shape}; weights and "
                "config do not match"
            )
        if interleaved_rotary and name in ("query", "key", "query_bias", "key_bias"):
            tensor = _pairs_to_halves(tensor, config.head_dim)
        return tensor

    dtype = jnp.dtype(dtype)
    layers: dict[str, np.ndarray] = {}
    for i in range(config.num_layers):
        for name, array in _layer(config, functools.partial(read, layer=i), dtype).items():
            layers.setdefault(name, np.empty((config.num_layers, *array.shape), array.dtype))[i] = (
                array
            )
    params = {
        "embedding": read("embedding", config.vocab_size, config.hidden_size).astype(dtype),
        "layers": layers,
        "final_norm": read("final_norm", config.hidden_size).astype(np.float32),
    }
    if not config.tied_embeddings:
        params["output"] = np.ascontiguousarray(
            read("output", config.vocab_size, config.hidden_size).astype(dtype).T
        )
    elif names["output"] in tensors:
        _check_tied(tensors[names["output"]], tensors[names["embedding"]], names["output"])
    return params


def _remedy(missing: str, tensors: Tensors) -> str:
    """What to do about a tensor that is missing: others of its layer may stand in its place."""
    module = missing.rpartition(".")[0] + "."
    instead = sorted(name for name in tensors if name.startswith(module))
    if not instead:
        return "is the file complete?"
    return (
        f"in its place are {', '.join(instead[:3])}: quantised weights, or adapters that were left "
        "in; give the plain, unquantised repository"
    )


def _check_tied(output: np.ndarray, embedding: np.ndarray, name: str) -> None:
    if not np.array_equal(output, embedding):
        raise CheckpointError(
            f"the config says that logits use the embedding table, but {name!r} of the LLaMA "
            "checkpoint differs from it; set tie_word_embeddings to false in config.json"
        )


def _layer(
    config: LlamaConfig, read: Callable[..., np.ndarray], dtype: np.dtype
) -> dict[str, np.ndarray]:
    hidden, inner = config.hidden_size, config.intermediate_size
    kv_heads, group, dim = config.num_kv_heads, config.queries_per_kv, config.head_dim
    by_kv_head = [("query", group), ("key", 1), ("value", 1)]
    weights = [
        read(n, kv_heads * g * dim, hidden).astype(dtype).reshape(kv_heads, g, dim, hidden)
        for n, g in by_kv_head
    ]
    layer = {
        "attention_norm": read("attention_norm", hidden).astype(np.float32),
        "qkv": np.moveaxis(np.concatenate(weights, axis=1), -1, 0),
        "attention_output": read("attention_output", hidden, config.num_heads * dim)
        .astype(dtype)
        .T,
        "mlp_norm": read("mlp_norm", hidden).astype(np.float32),
        "gate_up": np.stack(
            [
                read("gate", inner, hidden).astype(dtype).T,
                read("up", inner, hidden).astype(dtype).T,
            ],
            axis=1,
        ),
        "down": read("down", hidden, inner).astype(dtype).T,
    }
    if config.qkv_bias:
        biases = [
            read(f"{n}_bias", kv_heads * g * dim).reshape(kv_heads, g, dim) for n, g in by_kv_head
        ]
        layer["qkv_bias"] = np.concatenate(biases, axis=1).astype(np.float32)
    return layer


def _pairs_to_halves(
    tensor: Float[np.ndarray, "rows *columns"], head_dim: int
) -> Float[np.ndarray, "rows *columns"]:
    pairs = tensor.reshape(-1, head_dim // 2, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
