"""The sizes of a LLaMA-family network, read from a Hugging Face config.json or from GGUF
metadata.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from v2l_jax.errors import ConfigError
from v2l_jax.formats.checked_tensors import refuse_quantised_config
from v2l_jax.formats.text_files import entry, read_json

# What transformers assumes where a config.json says nothing.
_COMMON = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _COMMON | {"intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": _COMMON
    | {
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": _COMMON
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}

# Variants that this network does not have, and the value that it does.
_ONLY = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "attention_bias": False,
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
}
_READ = {
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
    "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "torch_dtype",
    "dtype", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "_name_or_path", "architectures", "attention_dropout", "auto_map", "initializer_range",
    "is_llama_config", "pretraining_tp", "transformers_version", "use_cache", "unk_token_id",
    "transformers.js_config", "_attn_implementation_autoset", "attn_implementation",
    "quantization_config", "return_dict", "output_attentions", "output_hidden_states",
}  # fmt: skip
_CHANGES_THE_NETWORK = re.compile(
    r"scale|scaling|multiplier|softcap|clamp|logit|qk|norm|expert|moe|no_rope|alibi|pattern|window"
    r"|sliding|chunk|sink|gate|residual|parallel_|mup|position_embedding|interleave"
)
"""In the name of a setting that is not known: what it says may change the network."""

_WIDEST_HEAD = 1 << 14
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files that quantisers leave beside their weights."""


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
    head_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
    where: str = "config.json",
) -> tuple[float, ...]:
    """Rotary frequencies (RoFormer, arXiv 2104.09864) with the scaling of a config.json.

    Args:
      head_dim: width of a head.
      theta: base of the geometric series.
      scaling: the `rope_scaling` or `rope_parameters` of a config.json; types default, linear and
        llama3.
      where: what to call the file in an error.

    Returns:
      head_dim / 2 frequencies, radians per position.

    Raises:
      ConfigError: the scaling type is not supported, or lacks one of its numbers.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))

    def read(key: str) -> float:
        value = entry(scaling, key, (int, float), f"{where}: rotary scaling {kind!r}", ConfigError)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{where}: rotary scaling {kind!r}: {key} is {value}, not positive")
        return float(value)

    if kind == "linear":
        frequencies = frequencies / read("factor")
    elif kind == "llama3":
        frequencies = _llama3_scaled(frequencies, read, where)
    elif kind != "default":
        raise ConfigError(
            f"{where}: rotary scaling {kind!r} of this checkpoint is not supported; use one with "
            "default, linear or llama3 scaling"
        )
    return tuple(float(f) for f in frequencies)


def _llama3_scaled(frequencies: np.ndarray, read: Callable[[str], float], where: str) -> np.ndarray:
    """Slow rotations are divided by the factor, fast ones kept, those between interpolated (LLaMA
    3.1).
    """
    low, high, factor = read("low_freq_factor"), read("high_freq_factor"), read("factor")
    if high <= low:
        raise ConfigError(
            f"{where}: rotary scaling 'llama3': high_freq_factor is {high}, but must be above "
            f"low_freq_factor, {low}"
        )
    turns = read("original_max_position_embeddings") * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def read_huggingface_config(folder: pathlib.Path) -> LlamaConfig:
    """Reads the config.json of a folder; see `config_from_huggingface`.

    Raises:
      ConfigError: it is missing or damaged, of another architecture, a variant that this network
        does not have, or quantised.
    """
    path = folder / "config.json"
    config = read_json(path, ConfigError)
    refuse_quantised_config(config, str(path), ConfigError)
    beside = [name for name in QUANTISED_FILES if (folder / name).is_file()]
    if beside:
        raise ConfigError(
            f"{folder / beside[0]} says that these weights are quantised; give the unquantised "
            "repository, or a GGUF file of it"
        )
    return config_from_huggingface(config, str(path))


def config_from_huggingface(config: Mapping[str, Any], where: str = "config.json") -> LlamaConfig:
    """Reads a parsed config.json (layouts of transformers 4 and 5); what it does not say is what
    transformers assumes.

    Args:
      config: the JSON object.
      where: what to call the file in an error.

    Raises:
      ConfigError: another architecture, a variant that this network does not have, or a value that
        cannot be; file and key are named.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _DEFAULTS:
        raise ConfigError(
            f"{where}: model_type {kind!r} is not of the LLaMA family; supported: "
            f"{', '.join(_DEFAULTS)}"
        )
    for key, expected in _ONLY.items():
        if config.get(key, expected) not in (expected, None):
            raise ConfigError(
                f"{where}: {key}={config[key]!r} is not supported, only {expected!r}; choose "
                "another checkpoint"
            )
    _check_unread(config, where)
    said = _DEFAULTS[kind] | {
        k: v for k, v in config.items() if v is not None or k == "sliding_window"
    }

    def size(key: str) -> int:
        value = entry(said, key, int, where, ConfigError)
        if value < 1:
            raise ConfigError(f"{where}: {key} is {value}, but must be at least 1")
        return value

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    kv_heads = size("num_key_value_heads") if said.get("num_key_value_heads") else heads
    head_dim = size("head_dim") if said.get("head_dim") else hidden // heads
    _check_heads(hidden, heads, kv_heads, head_dim, bool(said.get("head_dim")), where)
    rotary = said.get("rope_parameters") or said.get("rope_scaling") or {}
    if not isinstance(rotary, Mapping):
        raise ConfigError(f"{where}: the rotary scaling is {rotary!r}, but must be an object")
    rotary = {"original_max_position_embeddings": said["max_position_embeddings"], **rotary}
    theta = entry(
        {"rope_theta": 10000.0, **said, **rotary}, "rope_theta", (int, float), where, ConfigError
    )
    if not theta > 0:
        raise ConfigError(f"{where}: rope_theta is {theta}, but must be positive")
    window, first = _window(said, kind, where)
    return LlamaConfig(
        vocab_size=size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_layers=size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=size("max_position_embeddings"),
        norm_eps=_epsilon(said, "rms_norm_eps", where),
        inverse_frequencies=rotary_frequencies(head_dim, theta, rotary, where),
        sliding_window=window,
        first_sliding_layer=first,
        qkv_bias=kind == "qwen2",
        tied_embeddings=entry(said, "tie_word_embeddings", bool, where, ConfigError),
    )


def _epsilon(values: Mapping[str, Any], key: str, where: str) -> float:
    value = entry(values, key, (int, float), where, ConfigError)
    if value <= 0:
        raise ConfigError(f"{where}: {key} is {value}, but must be positive")
    return float(value)


def _check_heads(
    hidden: int, heads: int, kv_heads: int, head_dim: int, stated: bool, where: str
) -> None:
    if heads % kv_heads:
        raise ConfigError(
            f"{where}: {heads} query heads cannot share {kv_heads} key/value heads; the first must "
            "be a multiple of the second"
        )
    if not stated and hidden % heads:
        raise ConfigError(
            f"{where}: the width {hidden} is not a multiple of {heads} heads, and head_dim is not "
            "given"
        )
    if head_dim > _WIDEST_HEAD:
        raise ConfigError(f"{where}: heads of width {head_dim:,} cannot be; the sizes are damaged")
    if head_dim % 2:
        raise ConfigError(
            f"{where}: heads of width {head_dim} have no rotary pairs; it must be even"
        )


def _check_unread(config: Mapping[str, Any], where: str) -> None:
    """Refuses settings that are not known and by their names may change the network, unless they
    are off; warns of the others.
    """
    unread = sorted(key for key in config if key not in _WITHOUT_EFFECT | _ONLY.keys() | _READ)
    for key in unread:
        value = config[key]
        off = value in (None, False, 0, 1, "", [], {}) and value is not True
        if _CHANGES_THE_NETWORK.search(key) and not off:
            raise ConfigError(
                f"{where}: {key}={value!r} is not known here and may change what the network "
                "computes; choose another checkpoint, or take the setting out if it does not"
            )
    if unread:
        logging.warning(
            "%s: %d settings are not known here and have no effect: %s",
            where,
            len(unread),
            ", ".join(unread[:8]),
        )


_GGUF_READ = frozenset(
    "attention.head_count attention.head_count_kv attention.key_length attention.value_length"
    " attention.layer_norm_rms_epsilon attention.layer_norm_epsilon attention.sliding_window"
    " rope.scaling.type rope.scaling.factor rope.scaling.original_context_length"
    " rope.scaling.finetuned rope.scale_linear expert_count expert_used_count".split()
)


def _check_unread_gguf(metadata: Mapping[str, Any], arch: str, where: str) -> None:
    """As `_check_unread`, of the architecture's own keys."""
    for full, value in metadata.items():
        key = full.removeprefix(f"{arch}.")
        if key == full or key in _GGUF_READ or not _CHANGES_THE_NETWORK.search(key):
            continue
        if value not in (None, False, 0, 1, "") or value is True:
            raise ConfigError(
                f"{where}: {full}={value!r} is not known here and may change what the network "
                "computes; choose another model"
            )


def _window(said: Mapping[str, Any], kind: str, where: str) -> tuple[int | None, int]:
    """The sliding window and the first layer that has it."""
    window = said.get("sliding_window")
    if kind == "llama" or not window or (kind == "qwen2" and not said.get("use_sliding_window")):
        return None, 0
    entry(said, "sliding_window", int, where, ConfigError)
    if kind == "mistral":
        return window, 0
    layers = said.get("layer_types")
    if layers is not None:
        entry(said, "layer_types", list, where, ConfigError)
    if layers is None:
        return window, entry(said, "max_window_layers", int, where, ConfigError)
    first = next((i for i, layer in enumerate(layers) if layer != "full_attention"), len(layers))
    if any(layer != "sliding_attention" for layer in layers[first:]):
        raise ConfigError(
            f"{where}: layer_types where full attention follows a sliding window is not supported; "
            "choose another checkpoint"
        )
    return window, first


def config_from_gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str = "the GGUF file"
) -> LlamaConfig:
    """Reads the metadata of a GGUF file; the vocabulary's size comes from the tensors.

    Args:
      metadata: GGUF key-value pairs.
      tensors: weights by GGUF name, orientation (out, in).
      where: what to call the file in an error.

    Raises:
      ConfigError: another architecture or rotary scaling, a LoRA, or sizes that are missing or
        cannot be.
    """
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ConfigError(
            f"{where} holds no model but a {kind!r} (general.type); give the model's own GGUF file"
        )
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ("llama", "qwen2"):
        raise ConfigError(
            f"{where}: GGUF architecture {arch!r} is not of the LLaMA family; supported: llama, "
            "qwen2"
        )

    def size(key: str, default: int | None = None) -> int:
        said = {k: v for k, v in ((f"{arch}.{key}", default),) if v is not None} | dict(metadata)
        value = entry(said, f"{arch}.{key}", int, where, ConfigError)
        if value < 1:
            raise ConfigError(f"{where}: {arch}.{key} is {value}, but must be at least 1")
        return value

    heads, hidden = size("attention.head_count"), size("embedding_length")
    kv_heads = size("attention.head_count_kv", heads)
    stated = f"{arch}.attention.key_length" in metadata
    head_dim = size("attention.key_length", max(hidden // heads, 1))
    _check_heads(hidden, heads, kv_heads, head_dim, stated, where)
    if size("rope.dimension_count", head_dim) != head_dim or metadata.get(f"{arch}.expert_count"):
        raise ConfigError(
            f"{where}: rotary positions on part of a head, or experts, are not supported; choose "
            "another model"
        )
    if "token_embd.weight" not in tensors:
        raise ConfigError(f"{where} has no tensor token_embd.weight; it is not a language model")
    key = f"{arch}.attention.sliding_window"
    window = entry({key: 0} | dict(metadata), key, int, where, ConfigError)
    _check_unread_gguf(metadata, arch, where)
    return LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        intermediate_size=size("feed_forward_length"),
        num_layers=size("block_count"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=size("context_length"),
        norm_eps=_epsilon(metadata, f"{arch}.attention.layer_norm_rms_epsilon", where),
        inverse_frequencies=_gguf_frequencies(metadata, tensors, arch, head_dim, where),
        sliding_window=window if window > 0 else None,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )


def _gguf_frequencies(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    arch: str,
    head_dim: int,
    where: str,
) -> tuple[float, ...]:
    older = metadata.get(f"{arch}.rope.scale_linear", 0.0)  # llama.cpp's name for it in 2023
    kind = metadata.get(f"{arch}.rope.scaling.type", "linear" if older else "default")
    scaling = {
        "rope_type": "default" if kind == "none" else kind,
        "factor": metadata.get(f"{arch}.rope.scaling.factor", older or 1.0),
    }
    key = f"{arch}.rope.freq_base"
    theta = entry({key: 10000.0} | dict(metadata), key, (int, float), where, ConfigError)
    if not theta > 0:
        raise ConfigError(f"{where}: {key} is {theta}, but must be positive")
    frequencies = np.asarray(rotary_frequencies(head_dim, theta, scaling, where))
    if "rope_freqs.weight" in tensors:  # how GGUF stores llama3 scaling
        factors = np.asarray(tensors["rope_freqs.weight"], np.float64)
        if factors.shape != frequencies.shape:
            raise ConfigError(
                f"{where}: rope_freqs.weight has {factors.size} factors for {frequencies.size} "
                "rotary frequencies"
            )
        frequencies = frequencies / factors
    return tuple(float(f) for f in frequencies)
