"""Reads CLIP checkpoints in OpenAI's and Hugging Face's layouts.

Sizes follow from the tensors' shapes; the number of heads, the activation and epsilon come from
config.json or are OpenAI's.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from v2l_jax.errors import CheckpointError
from v2l_jax.towers.clip import ClipImageConfig, ClipTextConfig
from v2l_jax.towers.transformer import Activation, TransformerConfig

# Hugging Face's name → OpenAI's; linear projections are transposed, OpenAI stores them (in, out).
HUGGING_FACE_NAMES = (
    (r"vision_model\.embeddings\.class_embedding", r"visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", r"visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", r"visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(\w+)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(\w+)", r"visual.ln_post.\1"),
    (r"visual_projection\.weight", r"visual.proj"),
    (r"text_model\.embeddings\.token_embedding\.weight", r"token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", r"positional_embedding"),
    (r"text_model\.final_layer_norm\.(\w+)", r"ln_final.\1"),
    (r"text_projection\.weight", r"text_projection"),
    (r"vision_model\.encoder\.layers\.(.*)", r"visual.transformer.resblocks.\1"),
    (r"text_model\.encoder\.layers\.(.*)", r"transformer.resblocks.\1"),
)
HUGGING_FACE_BLOCK_NAMES = (
    (r"(.*)\.layer_norm([12])\.(\w+)", r"\1.ln_\2.\3"),
    (r"(.*)\.mlp\.fc1\.(\w+)", r"\1.mlp.c_fc.\2"),
    (r"(.*)\.mlp\.fc2\.(\w+)", r"\1.mlp.c_proj.\2"),
    (r"(.*)\.self_attn\.out_proj\.(\w+)", r"\1.attn.out_proj.\2"),
)

# Head widths of the ViTs that do not use 64 (OpenCLIP's H/14, g/14 and bigG/14).
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}

# What transformers assumes where a config.json is silent.
HUGGING_FACE_DEFAULTS = {
    "vision": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "text": {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}


def read_clip(
    path: str | pathlib.Path, activation: Activation | None = None
) -> tuple[ClipImageConfig, dict[str, Any], ClipTextConfig, dict[str, Any]]:
    """Reads both sides of a CLIP; arguments and errors as in `clip.load_clip`."""
    from v2l_jax.formats.safetensors_files import read_safetensors
    from v2l_jax.formats.torch_files import read_torch

    path = pathlib.Path(path)
    settings = {"vision": {}, "text": {}}
    if path.is_dir():
        settings = read_settings(path)
        tensors = from_hugging_face(read_safetensors(path))
    else:
        tensors = flatten(
            read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
        )
    if activation is not None:
        settings = {side: values | {"hidden_act": activation} for side, values in settings.items()}
    try:
        visual = {
            name.removeprefix("visual."): x
            for name, x in tensors.items()
            if name.startswith("visual.")
        }
        image = image_side(visual, settings["vision"])
        text = text_side(tensors, settings["text"])
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not a CLIP with a ViT image tower: it has no tensor {error}"
        ) from error
    return *image, *text


def read_settings(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads heads, activation and epsilon of both sides from a Hugging Face config.json."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: give the directory of a Hugging Face CLIP model"
        )
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "clip":
        raise CheckpointError(f"{folder} holds a {config.get('model_type')!r} model, not a 'clip'")
    settings = {}
    for side, defaults in HUGGING_FACE_DEFAULTS.items():
        # transformers lets the older "…_config_dict" win
        given = config.get(f"{side}_config_dict") or config.get(f"{side}_config") or {}
        settings[side] = {key: given.get(key, default) for key, default in defaults.items()}
    return settings


def from_hugging_face(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and reshapes Hugging Face's CLIP tensors into OpenAI's layout."""
    renamed = {}
    for name, tensor in tensors.items():
        transposed = re.fullmatch(r"(visual|text)_projection\.weight", name)
        for pattern, replacement in HUGGING_FACE_NAMES + HUGGING_FACE_BLOCK_NAMES:
            name = re.sub(f"^{pattern}$", replacement, name)
        renamed[name] = tensor.T if transposed else tensor
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        block, leaf = name.split(".self_attn.q_proj.")
        parts = [renamed.pop(f"{block}.self_attn.{part}_proj.{leaf}") for part in "qkv"]
        renamed[f"{block}.attn.in_proj_{leaf}"] = np.concatenate(parts)
    return renamed


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Finds the arrays of a checkpoint file by dotted names, without the keys ("state_dict",
    "module") that training scripts put around them.
    """
    if isinstance(tree, Mapping) and isinstance(tree.get("state_dict"), Mapping):
        tree = tree["state_dict"]
    arrays = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        elif isinstance(node, np.ndarray):
            arrays[prefix.removeprefix("module.")] = node

    visit("", tree)
    return arrays


def image_side(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> tuple[ClipImageConfig, dict[str, Any]]:
    """Builds `ClipImage`'s config and parameters from a ViT in OpenAI's layout.

    Args:
      tensors: arrays by name without "visual." in front: "conv1.weight",
        "transformer.resblocks.0.ln_1.weight", ….
      settings: `hidden_act`, `num_attention_heads` and `layer_norm_eps` where they differ from
        OpenAI's.

    Raises:
      KeyError: a tensor is missing.
    """
    kernel = _float32(tensors["conv1.weight"])
    transformer, blocks = transformer_side(tensors, settings or {})
    positions = tensors["positional_embedding"].shape[0]
    config = ClipImageConfig(
        transformer=transformer,
        patch_size=kernel.shape[2],
        image_size=kernel.shape[2] * round((positions - 1) ** 0.5),
        dim=tensors["proj"].shape[1],
    )
    params = {
        "patch_embedding": {"kernel": kernel.transpose(2, 3, 1, 0)},
        "class_embedding": _float32(tensors["class_embedding"]),
        "position_embedding": _float32(tensors["positional_embedding"]),
        "norm_pre": _norm(tensors, "ln_pre"),
        "blocks": blocks,
        "norm_post": _norm(tensors, "ln_post"),
        "projection": {"kernel": _float32(tensors["proj"])},
    }
    return config, params


def text_side(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None
) -> tuple[ClipTextConfig, dict[str, Any]]:
    """Builds `ClipText`'s config and parameters from tensors in OpenAI's layout; arguments as in
    `image_side`.
    """
    transformer, blocks = transformer_side(tensors, settings or {})
    config = ClipTextConfig(
        transformer=transformer,
        vocab_size=tensors["token_embedding.weight"].shape[0],
        context_length=tensors["positional_embedding"].shape[0],
        dim=tensors["text_projection"].shape[1],
    )
    params = {
        "token_embedding": {"embedding": _float32(tensors["token_embedding.weight"])},
        "position_embedding": _float32(tensors["positional_embedding"]),
        "blocks": blocks,
        "norm_final": _norm(tensors, "ln_final"),
        "projection": {"kernel": _float32(tensors["text_projection"])},
    }
    return config, params


def transformer_side(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> tuple[TransformerConfig, dict[str, Any]]:
    """Builds the config of "transformer.resblocks.*" and its parameters, stacked on a leading layer
    axis.
    """
    prefix = "transformer.resblocks."
    layers = 1 + max(
        (int(n[len(prefix) :].split(".")[0]) for n in tensors if n.startswith(prefix)), default=0
    )
    mlp_width, width = tensors[f"{prefix}0.mlp.c_fc.weight"].shape
    activation = settings.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"CLIP with activation {activation!r} is not supported (quick_gelu and gelu are)"
        )
    config = TransformerConfig(
        width=width,
        layers=layers,
        heads=settings.get("num_attention_heads", width // HEAD_WIDTHS.get(width, 64)),
        mlp_width=mlp_width,
        activation=activation,
        layer_norm_eps=settings.get("layer_norm_eps", 1e-5),
    )
    blocks = [
        {
            "attention": {
                "qkv": _dense(tensors, f"{block}attn.in_proj_weight", f"{block}attn.in_proj_bias"),
                "out": _dense(
                    tensors, f"{block}attn.out_proj.weight", f"{block}attn.out_proj.bias"
                ),
            },
            "norm_1": _norm(tensors, f"{block}ln_1"),
            "norm_2": _norm(tensors, f"{block}ln_2"),
            "mlp_in": _dense(tensors, f"{block}mlp.c_fc.weight", f"{block}mlp.c_fc.bias"),
            "mlp_out": _dense(tensors, f"{block}mlp.c_proj.weight", f"{block}mlp.c_proj.bias"),
        }
        for block in (f"{prefix}{i}." for i in range(layers))
    ]
    return config, jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def _dense(tensors: Mapping[str, np.ndarray], weight: str, bias: str) -> dict[str, np.ndarray]:
    return {"kernel": _float32(tensors[weight]).T, "bias": _float32(tensors[bias])}


def _norm(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": _float32(tensors[f"{name}.weight"]), "bias": _float32(tensors[f"{name}.bias"])}


def _float32(tensor: np.ndarray) -> np.ndarray:
    return np.asarray(tensor, np.float32)
