"""Reads CLIP checkpoints in OpenAI's and Hugging Face's layouts.

Sizes follow from the tensors' shapes; for the number of heads, the activation and epsilon see
`clip_settings`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import CheckedTensors, Tensors, fitting_together
from v2l_jax.towers.clip import ClipImageConfig, ClipTextConfig
from v2l_jax.towers.clip_settings import ClipSettings, changed, settings_beside
from v2l_jax.towers.clip_settings import read_settings as read_settings
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

# Head widths of the image sides that do not use 64 (OpenCLIP's H/14, g/14 and bigG/14); all text
# sides do.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}

_WHAT = "a CLIP with a ViT image tower"

# Tensors that say nothing about the two towers.
WITHOUT_EFFECT = (
    r"logit_scale", r"logit_bias", r"input_resolution", r"context_length", r"vocab_size",
    r"attn_mask", r"(text_model|vision_model)\.embeddings\.position_ids",
)  # fmt: skip


def read_clip(
    path: str | pathlib.Path, activation: Activation | None = None
) -> tuple[ClipImageConfig, dict[str, Any], ClipTextConfig, dict[str, Any]]:
    """Reads both sides of a CLIP; arguments and errors as in `clip.load_clip`."""
    tensors, settings = open_clip(pathlib.Path(path))
    return both_sides(path, tensors, changed(settings, activation or ""))


def open_clip(path: pathlib.Path) -> tuple[dict[str, np.ndarray], ClipSettings]:
    """The tensors of a checkpoint by OpenAI's names, and what lies beside them."""
    from v2l_jax.formats.safetensors_files import read_safetensors
    from v2l_jax.formats.torch_files import read_torch

    if path.is_dir():
        settings = settings_beside(path)
        raw = read_safetensors(path)
        CheckedTensors(raw, str(path)).refuse_quantised()
        with fitting_together(str(path), _WHAT):
            return from_hugging_face(raw), settings
    tree = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    tensors = flatten(tree)
    CheckedTensors(tensors, str(path)).refuse_quantised()
    openai = {"input_resolution", "context_length", "vocab_size"} <= set(tensors)
    with fitting_together(str(path), _WHAT):
        return from_hugging_face(tensors), settings_beside(path, openai)


def both_sides(
    path: str | pathlib.Path, tensors: Mapping[str, np.ndarray], settings: ClipSettings
) -> tuple[ClipImageConfig, dict[str, Any], ClipTextConfig, dict[str, Any]]:
    """Builds both sides, and refuses tensors that belong to neither."""
    sides: list[dict[str, np.ndarray]] = [{}, {}]
    for name, tensor in tensors.items():
        sides[not name.startswith("visual.")][name.removeprefix("visual.")] = tensor
    visual, text = (CheckedTensors(side, str(path)) for side in sides)
    with fitting_together(str(path), _WHAT):
        built = (*image_side(visual, settings.vision), *text_side(text, settings.text))
    visual.refuse_unread(WITHOUT_EFFECT)
    text.refuse_unread(WITHOUT_EFFECT)
    return built


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
    tensors: Tensors, settings: Mapping[str, Any] | None = None
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
    transformer, blocks = transformer_side(tensors, settings or {}, HEAD_WIDTHS)
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
    tensors: Tensors, settings: Mapping[str, Any] | None = None
) -> tuple[ClipTextConfig, dict[str, Any]]:
    """Builds `ClipText`'s config and parameters from tensors in OpenAI's layout; arguments as in
    `image_side`.
    """
    transformer, blocks = transformer_side(tensors, settings or {}, {})
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
    tensors: Tensors, settings: Mapping[str, Any], head_widths: Mapping[int, int]
) -> tuple[TransformerConfig, dict[str, Any]]:
    """Builds the config of "transformer.resblocks.*" and its parameters, stacked on a leading layer
    axis.

    Args:
      tensors: by name.
      settings: as in `image_side`.
      head_widths: of heads that are not 64 wide, by the transformer's width.
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
    heads = settings.get("num_attention_heads", width // head_widths.get(width, 64))
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"CLIP of width {width} cannot have {heads} heads; width must be a multiple of them"
        )
    config = TransformerConfig(
        width=width,
        layers=layers,
        heads=heads,
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


def _dense(tensors: Tensors, weight: str, bias: str) -> dict[str, np.ndarray]:
    return {"kernel": _float32(tensors[weight]).T, "bias": _float32(tensors[bias])}


def _norm(tensors: Tensors, name: str) -> dict[str, np.ndarray]:
    return {"scale": _float32(tensors[f"{name}.weight"]), "bias": _float32(tensors[f"{name}.bias"])}


def _float32(tensor: np.ndarray) -> np.ndarray:
    return np.asarray(tensor, np.float32)
