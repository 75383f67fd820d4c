"""A tiny LLaMA checkpoint in Hugging Face's layout, to be changed by tests."""

import json
import pathlib
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def tensors() -> dict[str, np.ndarray]:
    """Random float32 weights of `CONFIG`, by Hugging Face's names."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (11, 8), "model.norm.weight": (8,)}
    shapes["lm_head.weight"] = (11, 8)
    for i in range(2):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}{n}_layernorm.weight": (8,) for n in ("input", "post_attention")}
        shapes |= {f"{layer}self_attn.{n}_proj.weight": (8, 8) for n in "qo"}
        shapes |= {f"{layer}self_attn.{n}_proj.weight": (4, 8) for n in "kv"}
        shapes |= {f"{layer}mlp.{n}_proj.weight": (12, 8) for n in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (8, 12)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(
    folder: pathlib.Path, config: dict[str, Any] | None = None, weights: Any = None
) -> pathlib.Path:
    """Writes config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    save_file(tensors() if weights is None else weights, folder / "model.safetensors")
    return folder
