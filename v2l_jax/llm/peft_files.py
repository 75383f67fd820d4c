"""Adapters in the file layout of Hugging Face PEFT: adapter_config.json beside
adapter_model.safetensors.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import CheckedTensors
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.formats.text_files import entry, read_json
from v2l_jax.llm.llama_config import LlamaConfig
from v2l_jax.llm.lora import PROJECTIONS, Adapters, Lora, projection_sizes

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"

_BLOCK = {
    name: "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    for name in PROJECTIONS
}
_NAME = "base_model.model.model.layers.{layer}.{block}.{projection}.{matrix}.weight"
_PATTERN = re.compile(
    r"base_model\.model\.model\.layers\.\d+\.(?:self_attn|mlp)\.(\w+)\.lora_[AB]\.weight"
)

_PLAIN = {
    "bias": "none",
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "layer_replication": None,
}
"""Variants of LoRA that `llm.lora` does not compute, and their values for the plain one."""

_TOKENS, _EMBEDDING = "trainable_token_indices", "embed_tokens"
_ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"

_STABILISED = "use_rslora"
_READ = ("peft_type", "r", "lora_alpha", "target_modules", _TOKENS, _STABILISED)
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode",
    "lora_dropout", "exclude_modules", "layers_pattern", "megatron_core", "qalora_group_size",
    "eva_config",
}  # fmt: skip
"""Settings of training, or of variants that another key turns on."""

_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Of `init_lora_weights`: those that leave the network's own weights as they are."""

_KNOWN = {key: (value,) for key, value in _PLAIN.items()} | {
    "init_lora_weights": _INITIALISATIONS,
    "task_type": ("CAUSAL_LM", None),
    "fan_in_fan_out": (False,),
}
_REMEDY = "it is not a readable PEFT adapter config; name a folder that PEFT saved"
_CONVERT = (
    "its adapter only fits a base model that was changed with it; save it as plain LoRA "
    "(save_pretrained(…, path_initial_model_for_weight_conversion=…)), or merge it into the model "
    "(merge_and_unload) and give that"
)


def save_adapters(
    folder: str | os.PathLike,
    adapters: Adapters,
    lora: Lora,
    base_model: str,
    rows: Float[Any, "rows hidden"] | None = None,
    vocab_size: int = 0,
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` reads; each file whole or not at all.

    Args:
      folder: made if missing.
      adapters: float32 [layers, rank, in] and [layers, out, rank] by projection.
      lora: rank, alpha and targets.
      base_model: what to call the network that the adapters belong to.
      rows: new rows of the embedding, if any: PEFT's trainable tokens, for a base model that was
        resized to hold them (`model.resize_token_embeddings(vocab_size + len(rows))`).
      vocab_size: rows of the base model's own embedding.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    tensors = {
        _NAME.format(
            layer=layer, block=_BLOCK[projection], projection=projection, matrix=matrix
        ): np.ascontiguousarray(rows)
        for projection, matrices in adapters.items()
        for matrix, stack in matrices.items()
        for layer, rows in enumerate(np.asarray(stack, np.float32))
    }
    config = _PLAIN | {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        _STABILISED: lora.rank_stabilised,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    if rows is not None:
        tensors[_ROWS] = np.ascontiguousarray(np.asarray(rows, np.float32))
        config[_TOKENS] = {_EMBEDDING: list(range(vocab_size, vocab_size + len(rows)))}
    with atomic_write(folder / TENSOR_FILE) as path:
        save_file(tensors, path, {"format": "pt"})
    with atomic_write(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapters(folder: str | os.PathLike, config: LlamaConfig) -> tuple[Lora, Adapters]:
    """Reads a PEFT LoRA folder, ours or another's.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors.
      config: sizes of the network that the adapters are for.

    Returns:
      What was set of LoRA, and the adapters, float32.

    Raises:
      CheckpointError: files are missing or unreadable, the adapters are of another kind than plain
        LoRA, or they do not fit the network: other targets, ranks, shapes or layers.
    """
    folder = pathlib.Path(folder)
    settings = _read_config(folder / CONFIG_FILE)
    if not (folder / TENSOR_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {TENSOR_FILE}; adapters that PEFT saved as .bin must be saved as "
            "safetensors"
        )
    everything = read_safetensors(folder / TENSOR_FILE)
    _new_rows(folder, settings, everything, config)
    lora_only = {name: everything[name] for name in everything if name != _ROWS}
    tensors = CheckedTensors(lora_only, str(folder / TENSOR_FILE))
    lora = _lora(folder, settings, tensors)
    adapters = {
        target: {
            matrix: _stack(folder, tensors, config, target, matrix, lora.rank)
            for matrix in ("lora_A", "lora_B")
        }
        for target in lora.targets
    }
    expected = 2 * len(lora.targets) * config.num_layers
    if len(tensors) != expected:
        raise CheckpointError(
            f"{folder / TENSOR_FILE} has {len(tensors)} tensors, but {config.num_layers} layers "
            f"need {expected}; they are for another LLM"
        )
    return lora, adapters


def load_new_rows(
    folder: str | os.PathLike, config: LlamaConfig
) -> Float[np.ndarray, "rows hidden"] | None:
    """The new rows of the embedding that a PEFT LoRA folder holds; None where it holds none.

    Args:
      folder, config: as for `load_adapters`.

    Raises:
      CheckpointError: as for `load_adapters`; or its tokens are not those after the network's last.
    """
    folder = pathlib.Path(folder)
    settings = _read_config(folder / CONFIG_FILE)
    return _new_rows(folder, settings, read_safetensors(folder / TENSOR_FILE), config)


def _new_rows(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    config: LlamaConfig,
) -> Float[np.ndarray, "rows hidden"] | None:
    tokens = settings.get(_TOKENS)
    if not tokens and _ROWS not in tensors:
        return None
    rows = np.asarray(tensors[_ROWS], np.float32) if _ROWS in tensors else np.zeros((0, 0))
    ids = tokens.get(_EMBEDDING) if isinstance(tokens, dict) else tokens
    expected = list(range(config.vocab_size, config.vocab_size + len(rows)))
    if ids != expected or rows.shape != (len(expected), config.hidden_size):
        raise CheckpointError(
            f"{folder}: {_TOKENS}={tokens!r} with {len(rows)} rows is not supported: only new rows "
            f"after the network's {config.vocab_size} of width {config.hidden_size} are; are they "
            "for another LLM or vocabulary? Others must be merged into the model (merge_and_unload)"
        )
    return rows


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    settings = read_json(path, CheckpointError, remedy=_REMEDY)
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: adapters of kind {settings.get('peft_type')!r}; only LORA is supported: name "
            "a folder that PEFT saved"
        )
    rank = entry(settings, "r", int, str(path), CheckpointError)
    entry(settings, "lora_alpha", (int, float), str(path), CheckpointError)
    entry(settings, "target_modules", (list, str), str(path), CheckpointError)
    if settings.get(_STABILISED) is not None:
        entry(settings, _STABILISED, bool, str(path), CheckpointError)
    if rank < 1:
        raise CheckpointError(f"{path}: r is {rank}, but must be at least 1")
    for key, value in settings.items():
        _check_setting(path, key, value)
    return settings


def _check_setting(path: pathlib.Path, key: str, value: Any) -> None:
    """Raises CheckpointError unless a setting is known to leave the adapters plain LoRA: one of the
    values that do, or off (null, false, empty) where the key is not known.
    """
    if key in _READ or key in _WITHOUT_EFFECT or key in _KNOWN and value in _KNOWN[key]:
        return
    if key != "init_lora_weights" and (value is None or value is False or value in ({}, [], "")):
        return
    if key == "init_lora_weights":
        reason = _CONVERT
    elif key in _KNOWN:
        reason = "save plain LoRA adapters, or merge them into the model (merge_and_unload)"
    else:
        reason = (
            "this setting is not known here and may change what the adapters do; save plain LoRA "
            "adapters, or merge them into the model (merge_and_unload)"
        )
    raise CheckpointError(f"{path}: {key}={value!r} is not supported: {reason}")


def _lora(
    folder: pathlib.Path, settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> Lora:
    """Targets are read from the tensors: PEFT also lets a config name them by a pattern."""
    matches = {name: _PATTERN.fullmatch(name) for name in tensors}
    found = {match[1] for match in matches.values() if match}
    foreign = sorted(
        [name for name, match in matches.items() if not match] or found - set(PROJECTIONS)
    )
    if foreign or not found:
        raise CheckpointError(
            f"{folder / TENSOR_FILE}: {foreign[0] if foreign else 'no tensor'} is no LoRA of "
            f"{', '.join(PROJECTIONS)}"
        )
    named = settings["target_modules"]
    if isinstance(named, list) and set(named) != found:
        raise CheckpointError(
            f"{folder}: the config names targets {sorted(named)}, but the tensors are of "
            f"{sorted(found)}; save it again"
        )
    return Lora(
        settings["r"],
        float(settings["lora_alpha"]),
        tuple(name for name in PROJECTIONS if name in found),
        bool(settings.get(_STABILISED)),
    )


def _stack(
    folder: pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    config: LlamaConfig,
    target: str,
    matrix: str,
    rank: int,
) -> jnp.ndarray:
    out, width = projection_sizes(config, target)
    shape = (rank, width) if matrix == "lora_A" else (out, rank)
    rows = []
    for layer in range(config.num_layers):
        name = _NAME.format(layer=layer, block=_BLOCK[target], projection=target, matrix=matrix)
        if name not in tensors:
            raise CheckpointError(
                f"{folder / TENSOR_FILE} lacks {name}; the adapters are for another LLM, or the "
                "file is incomplete"
            )
        rows.append(np.asarray(tensors[name], np.float32))
        if rows[-1].shape != shape:
            raise CheckpointError(
                f"{folder / TENSOR_FILE}: {name} has shape {rows[-1].shape}, but this LLM at rank "
                f"{rank} needs {shape}"
            )
    return jnp.asarray(np.stack(rows))
