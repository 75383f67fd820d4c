"""The sizes of a LLaMA-family network, read from a Hugging Face config.json or from GGUF
metadata.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from v2l_jax.errors import ConfigError

_MODEL_TYPES = ("llama", "mistral", "qwen2")


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and constants of a decoder of the LLaMA family (LLaMA 1/2/3, SmolLM2, Mistral, Qwen2).

    Attributes:
      vocab_size: rows of the embedding table.
      hidden_size: width of the residual stream.
      intermediate_size: width of the gated MLP.
      num_layers: decoder blocks.
      num_heads: query heads.
      num_kv_heads: key/value heads; each serves num_heads / num_kv_heads query heads (GQA).
      head_dim: width of a head.
      context_length: longest sequence the checkpoint was made for, in tokens.
      norm_eps: epsilon of RMSNorm.
      inverse_frequencies: head_dim / 2 rotary frequencies in radians per position, scaling applied.
      sliding_window: a query sees this many latest positions, itself included; None sees all.
      first_sliding_layer: layers below it see all positions even where there is a window (Qwen2).
      qkv_bias: whether query, key and value projections have a bias (Qwen2).
      tied_embeddings: whether logits use the embedding table.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    inverse_frequencies: tuple[float, ...]
    sliding_window: int | None = None
    first_sliding_layer: int = 0
    qkv_bias: bool = False
    tied_embeddings: bool = False

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads


def rotary_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[float, ...]:
    """Rotary frequencies (RoFormer, arXiv 2104.09864) with the scaling of a config.json.

    Args:
      head_dim: width of a head.
      theta: base of the geometric series.
      scaling: the `rope_scaling` or `rope_parameters` of a config.json; types default, linear and
        llama3.

    Returns:
      head_dim / 2 frequencies, radians per position.

    Raises:
      ConfigError: the scaling type is not supported.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        frequencies = frequencies / scaling["factor"]
    elif kind == "llama3":
        frequencies = _llama3_scaled(frequencies, scaling)
    elif kind != "default":
        raise ConfigError(
            f"rotary scaling {kind!r} of this checkpoint is not supported; use one with default, "
            "linear or llama3 scaling"
        )
    return tuple(float(f) for f in frequencies)


def _llama3_scaled(frequencies: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """Slow rotations are divided by the factor, fast ones kept, those between interpolated (LLaMA
    3.1).
    """
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies


def config_from_huggingface(config: Mapping[str, Any]) -> LlamaConfig:
    """Reads a parsed config.json (layouts of transformers 4 and 5).

    Raises:
      ConfigError: another architecture, or a variant that this network does not have.
    """
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise ConfigError(
            f"config.json: model_type {kind!r} is not of the LLaMA family; supported: "
            f"{', '.join(_MODEL_TYPES)}"
        )
    for key, expected in (("hidden_act", "silu"), ("mlp_bias", False), ("attention_bias", False)):
        if config.get(key, expected) != expected:
            raise ConfigError(
                f"config.json: {key}={config[key]!r} is not supported, only {expected!r}; choose "
                "another checkpoint"
            )
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rotary.get("rope_theta", config.get("rope_theta", 10000.0))
    window, first = _window(config)
    return LlamaConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        context_length=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        inverse_frequencies=rotary_frequencies(head_dim, theta, rotary),
        sliding_window=window,
        first_sliding_layer=first,
        qkv_bias=kind == "qwen2",
        tied_embeddings=config.get("tie_word_embeddings", False),
    )


def _window(config: Mapping[str, Any]) -> tuple[int | None, int]:
    """The sliding window and the first layer that has it."""
    window = config.get("sliding_window")
    if config["model_type"] == "mistral":
        return window, 0
    if config["model_type"] == "qwen2" and config.get("use_sliding_window") and window:
        return window, config.get("max_window_layers", 28)
    return None, 0


def config_from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> LlamaConfig:
    """Reads the metadata of a GGUF file; sizes that it does not state come from the tensors.

    Args:
      metadata: GGUF key-value pairs.
      tensors: weights by GGUF name, orientation (out, in).

    Raises:
      ConfigError: another architecture or rotary scaling.
    """
    arch = metadata["general.architecture"]
    if arch not in ("llama", "qwen2"):
        raise ConfigError(
            f"GGUF architecture {arch!r} is not of the LLaMA family; supported: llama, qwen2"
        )
    get = lambda key, default=None: metadata.get(f"{arch}.{key}", default)
    heads = int(get("attention.head_count"))
    hidden = int(get("embedding_length"))
    head_dim = int(get("attention.key_length", hidden // heads))
    scaling = {
        "rope_type": get("rope.scaling.type", "default"),
        "factor": get("rope.scaling.factor", 1.0),
    }
    if scaling["rope_type"] == "none":
        scaling["rope_type"] = "default"
    frequencies = np.asarray(
        rotary_frequencies(head_dim, float(get("rope.freq_base", 10000.0)), scaling)
    )
    if "rope_freqs.weight" in tensors:  # how GGUF stores llama3 scaling
        frequencies = frequencies / np.asarray(tensors["rope_freqs.weight"], np.float64)
    window = get("attention.sliding_window")
    return LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        intermediate_size=int(get("feed_forward_length")),
        num_layers=int(get("block_count")),
        num_heads=heads,
        num_kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        context_length=int(get("context_length")),
        norm_eps=float(get("attention.layer_norm_rms_epsilon")),
        inverse_frequencies=tuple(float(f) for f in frequencies),
        sliding_window=int(window) if window else None,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )
