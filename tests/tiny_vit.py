"""A Hugging Face directory with a DINOv2 of one random block, written without torch."""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file


def write_dinov2(folder: pathlib.Path, patch: int = 2, tensors=None, **changes):
    """Writes config.json and model.safetensors: width 4, two heads, a grid of 2×2 positions.

    Args:
      folder: where.
      patch: side of a patch.
      tensors: in place of those of these names; None leaves one out.
      changes: of config.json.

    Returns:
      The tensors.
    """
    random, block = np.random.RandomState(0), "encoder.layer.0."
    shapes = {"embeddings.cls_token": (1, 1, 4), "embeddings.position_embeddings": (1, 5, 4)}
    shapes |= {"embeddings.patch_embeddings.projection.weight": (4, 3, patch, patch)}
    shapes |= {"embeddings.patch_embeddings.projection.bias": (4,)}
    for name in ("query", "key", "value"):
        shapes[f"{block}attention.attention.{name}.weight"] = (4, 4)
        shapes[f"{block}attention.attention.{name}.bias"] = (4,)
    linear = (("attention.output.dense", 4, 4), ("mlp.fc1", 8, 4), ("mlp.fc2", 4, 8))
    for name, out, width in linear:
        shapes |= {f"{block}{name}.weight": (out, width), f"{block}{name}.bias": (out,)}
    for name in (f"{block}norm1", f"{block}norm2", "layernorm"):
        shapes |= {f"{name}.weight": (4,), f"{name}.bias": (4,)}
    made = {name: random.randn(*shape).astype(np.float32) for name, shape in shapes.items()}
    made["pooler.dense.weight"] = np.zeros((4, 4), np.float32)
    made = {name: x for name, x in (made | (tensors or {})).items() if x is not None}
    save_file(made, folder / "model.safetensors")
    config = {"model_type": "dinov2", "hidden_size": 4, "num_attention_heads": 2} | changes
    (folder / "config.json").write_text(json.dumps(config))
    return made
