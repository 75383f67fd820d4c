"""A fine-tuned language model as a plain Hugging Face checkpoint: LoRA's changes added to the
matrices, new rows behind those of the embedding.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.llama_weights import HUGGINGFACE_NAMES
from v2l_jax.llm.lora import Adapters, Lora
from v2l_jax.llm.text_tokenizers import TextTokenizer

_MATRIX = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention_output",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip


def write_merged(
    folder: pathlib.Path,
    base: Mapping[str, Any] | None,
    config: LlamaConfig,
    params: Mapping[str, Any],
    lora: Lora,
    adapters: Adapters,
    rows: Float[Any, "rows hidden"] | None,
    tokenizer: TextTokenizer,
    names: Sequence[str],
) -> None:
    """Writes config.json, model.safetensors (float32) and the tokenizer's files.

    The output layer is apart from the embedding, and its new rows are zero: new words are read,
    never written. Their logits are 0, as those of no token are in the model as it was trained.

    Args:
      folder: where.
      base: config.json of the model that was fine-tuned; None makes one (GGUF).
      config: its sizes.
      params: its parameters, of `Llama`.
      lora, adapters: what was trained.
      rows: new rows of the embedding.
      tokenizer: of the model.
      names: of the new words, a row each; they become tokens.

    Raises:
      ConfigError: there is no config.json, and the rotary frequencies are scaled.
    """
    from safetensors.numpy import save_file

    said = dict(base) if base is not None else _made_config(config)
    new = np.zeros((0, config.hidden_size), np.float32) if rows is None else np.asarray(rows)
    tensors = huggingface_tensors(config, params)
    for projection, matrices in adapters.items():
        change = np.asarray(matrices["lora_B"]) @ np.asarray(matrices["lora_A"]) * lora.scale
        for layer in range(config.num_layers):
            tensors[HUGGINGFACE_NAMES[_MATRIX[projection]].format(layer)] += change[layer]
    own = tensors[HUGGINGFACE_NAMES["embedding"]]
    output = tensors.get(HUGGINGFACE_NAMES["output"], own)
    tensors[HUGGINGFACE_NAMES["embedding"]] = np.concatenate([own, new])
    tensors[HUGGINGFACE_NAMES["output"]] = np.concatenate([output, np.zeros_like(new)])
    said |= {"vocab_size": config.vocab_size + len(new), "tie_word_embeddings": False}
    said |= {"architectures": [_ARCHITECTURES[said["model_type"]]]}
    said = {key: value for key, value in said.items() if key not in ("torch_dtype", "dtype")}
    with atomic_write(folder / "model.safetensors") as path:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, {"format": "pt"})
    pipeline = json.loads(tokenizer.backend.to_str())
    pipeline["added_tokens"] = [
        *(pipeline.get("added_tokens") or ()),
        *(_token(config.vocab_size + i, name) for i, name in enumerate(names[: len(new)])),
    ]
    marks = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    marks = {kind: number for kind, number in marks.items() if number is not None}
    said |= {f"{kind}_token_id": number for kind, number in marks.items()}
    about = {f"{kind}_token": tokenizer.backend.id_to_token(n) for kind, n in marks.items()}
    about |= {"add_bos_token": tokenizer.adds_bos, "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": pipeline, "tokenizer_config.json": about, "config.json": said}
    for name, value in files.items():
        with atomic_write(folder / name) as path:
            path.write_text(json.dumps(value))


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
}  # fmt: skip


def huggingface_tensors(
    config: LlamaConfig, params: Mapping[str, Any]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The inverse of `llama_weights.params_from_tensors`, in float32."""
    array = lambda x: np.array(x, np.float32)
    names, layers = HUGGINGFACE_NAMES, {k: array(v) for k, v in params["layers"].items()}
    tensors = {names[key]: array(params[key]) for key in ("embedding", "final_norm")}
    if not config.tied_embeddings:
        tensors[names["output"]] = array(params["output"]).T
    group = config.queries_per_kv
    parts = {
        "query": slice(0, group),
        "key": slice(group, group + 1),
        "value": slice(group + 1, None),
    }
    for i in range(config.num_layers):
        made = {key: layers[key][i] for key in ("attention_norm", "mlp_norm")}
        made |= {key: layers[key][i].T for key in ("attention_output", "down")}
        made |= {"gate": layers["gate_up"][i][:, 0].T, "up": layers["gate_up"][i][:, 1].T}
        for key, part in parts.items():
            weight = layers["qkv"][i][:, :, part]
            made[key] = weight.reshape(config.hidden_size, -1).T
            if config.qkv_bias:
                made[f"{key}_bias"] = layers["qkv_bias"][i][:, part].reshape(-1)
        tensors |= {names[key].format(i): x.copy() for key, x in made.items()}
    return tensors


def _made_config(config: LlamaConfig) -> dict[str, Any]:
    """config.json of a model that came without one."""
    second = config.inverse_frequencies[1]
    theta = float(second ** (-config.head_dim / 2))
    plain = rotary_frequencies(config.head_dim, theta)
    if not np.allclose(plain, config.inverse_frequencies, rtol=1e-5):
        raise ConfigError(
            "the language model's rotary frequencies are scaled, which a config.json made from a "
            "GGUF file cannot say; fine-tune the model's Hugging Face checkpoint instead"
        )
    return {
        "model_type": "qwen2" if config.qkv_bias else "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": round(theta, 3),
        "hidden_act": "silu",
    }


def _token(number: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": False, **flags}
