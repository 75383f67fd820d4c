"""Reads vision transformers from Hugging Face directories, and DINOv2 from ONNX files."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from v2l_jax.data.transforms import CLIP_MEAN, CLIP_STD
from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import (
    CheckedTensors,
    fitting_together,
    refuse_quantised_config,
)
from v2l_jax.formats.onnx_files import read_onnx
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.formats.text_files import entry, read_json
from v2l_jax.towers.clip_settings import three
from v2l_jax.towers.transformer import TransformerConfig
from v2l_jax.towers.vit import VitConfig

Triple = tuple[float, float, float]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

_NORMALISATION: dict[str, tuple[Triple, Triple]] = {
    "vit": (_HALF, _HALF),
    "deit": (_IMAGENET_MEAN, _IMAGENET_STD),
    "dinov2": (_IMAGENET_MEAN, _IMAGENET_STD),
    "dinov2_with_registers": (_IMAGENET_MEAN, _IMAGENET_STD),
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    "siglip_vision_model": (_HALF, _HALF),
}
"""The kinds that are read, and their published mean and standard deviation where
preprocessor_config.json is missing."""

# What transformers assumes where a config.json is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12},
    "deit": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_attention_heads": 12},
    "dinov2_with_registers": {
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_attention_heads": 12,
    },
    "clip_vision_model": {
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": 12,
    },
    "siglip_vision_model": {
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12,
    },
}  # fmt: skip

_NOT_WANTED = re.compile(
    r"text_model\.|text_projection|visual_projection|vision_model\.head\.|head\.|logit_|pooler\."
    r"|(cls_|distillation_)?classifier\.|decoder\.|embeddings\.mask_token|.*position_ids$"
)
"""Tensors of what follows or stands beside the image tower."""

_NAMES = (
    (r"(vit|deit|dinov2|dinov2_with_registers|backbone|vision_model)\.", ""),
    (r"embeddings\.(class_embedding|cls_token)$", "class"),
    (r"embeddings\.distillation_token$", "distillation"),
    (r"embeddings\.register_tokens$", "registers"),
    (r"embeddings\.position_embeddings?(\.weight)?$", "positions"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch."),
    (r"embeddings\.patch_embedding\.", "patch."),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"(post_layernorm|layernorm)\.", "norm_post."),
    (r"(encoder\.)?layers?\.(\d+)\.", r"\2:"),
    (r"(\d+):(norm1|layernorm_before|layer_norm1)\.", r"\1:norm_1."),
    (r"(\d+):(norm2|layernorm_after|layer_norm2)\.", r"\1:norm_2."),
    (r"(\d+):(self_attn|attention\.attention|attention)\.(query|q_proj)\.", r"\1:query."),
    (r"(\d+):(self_attn|attention\.attention|attention)\.(key|k_proj)\.", r"\1:key."),
    (r"(\d+):(self_attn|attention\.attention|attention)\.(value|v_proj)\.", r"\1:value."),
    (r"(\d+):(self_attn\.out_proj|attention\.output\.dense|attention\.o_proj)\.", r"\1:out."),
    (r"(\d+):(intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"\1:mlp_in."),
    (r"(\d+):(output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.", r"\1:mlp_out."),
    (r"(\d+):mlp\.(gate|up)_proj\.", r"\1:\2."),
    (r"(\d+):layer_scale(\d)\.lambda1$", r"\1:scale_\2"),
)
"""Hugging Face's names, one rule after the other; "3:query.weight" is of block 3."""

_KNOWN = re.compile(
    r"class|distillation|registers|positions|(patch|norm_pre|norm_post)\.(weight|bias)"
    r"|\d+:((norm_1|norm_2|query|key|value|out|mlp_in|mlp_out|gate|up)\.(weight|bias)|scale_[12])"
)


@dataclasses.dataclass(frozen=True)
class ReadVit:
    """What a checkpoint holds: see `vit.PatchTower`, whose fields these are."""

    name: str
    config: VitConfig
    params: dict[str, Any]
    mean: Triple
    std: Triple


def read_vit(path: pathlib.Path) -> ReadVit:
    """Reads a checkpoint; see `vit.load_vit`."""
    if path.suffix == ".onnx":
        with fitting_together(str(path), "the export of a DINOv2 backbone"):
            kind, settings, tensors = "dinov2", _DEFAULTS["dinov2"], _onnx_tensors(path)
    else:
        kind, settings = _settings(path)
        tensors = read_safetensors(path)
    named = _named(path, tensors)
    with fitting_together(str(path), f"a whole {kind}"):
        config = _config(kind, settings, named, str(path))
        params = _params(config, named)
        _check_shapes(config, params)
    mean, std = _normalisation(path, kind)
    return ReadVit(path.stem if path.is_file() else path.name, config, params, mean, std)


def _settings(folder: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """The kind of model and the settings of its image side."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: give a Hugging Face directory, or a DINOv2's .onnx file"
        )
    config = read_json(folder / "config.json", CheckpointError)
    refuse_quantised_config(config, str(folder / "config.json"))
    kind = config.get("model_type")
    if kind in ("clip", "siglip"):
        config = {"vision_config": {}} | config
        where = str(folder / "config.json")
        config = entry(config, "vision_config", dict, where, CheckpointError)
        kind = f"{kind}_vision_model"
    if not isinstance(kind, str) or kind not in _NORMALISATION:
        raise CheckpointError(
            f"{folder} holds a {kind!r} model, which gives no patch features; known are "
            f"{', '.join(_NORMALISATION)}"
        )
    return kind, _DEFAULTS[kind] | {key: x for key, x in config.items() if x is not None}


def _normalisation(path: pathlib.Path, kind: str) -> tuple[Triple, Triple]:
    there = path / "preprocessor_config.json"
    given = read_json(there, CheckpointError) if path.is_dir() and there.is_file() else {}
    factor = given.get("rescale_factor") or 1 / 255
    off = [key for key in ("do_rescale", "do_normalize") if given.get(key, True) is False]
    if off or not isinstance(factor, (int, float)) or abs(factor - 1 / 255) > 1e-6:
        what = f"{off[0]}=false" if off else f"rescale_factor={factor!r}"
        raise CheckpointError(f"{there}: {what} is not supported; choose another tower")
    mean, std = _NORMALISATION[kind]
    return (
        three(given.get("image_mean") or mean, "image_mean", there),
        three(given.get("image_std") or std, "image_std", there),
    )


def _named(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The image tower's tensors by the names of `_KNOWN`, float32."""
    found, left_out = {}, 0
    tensors = CheckedTensors(tensors, str(path))
    for full in tensors:
        name = full
        for pattern, replacement in _NAMES[:1]:
            name = re.sub(f"^{pattern}", replacement, name)
        if _NOT_WANTED.match(full) or _NOT_WANTED.match(name):
            left_out += 1
            continue
        for pattern, replacement in _NAMES[1:]:
            name = re.sub(f"^{pattern}", replacement, name)
        if not _KNOWN.fullmatch(name):
            raise CheckpointError(
                f"{path} has a tensor {full!r} that no known vision transformer has; is it "
                "another architecture?"
            )
        found[name] = np.asarray(tensors[full], np.float32)
    if left_out:
        logging.info("%s: %d tensors beside the image tower are left out", path, left_out)
    return found


def _config(
    kind: str, settings: Mapping[str, Any], named: Mapping[str, np.ndarray], where: str
) -> VitConfig:
    """Sizes, from the tensors' shapes where these tell."""
    width, _, patch, _ = named["patch.weight"].shape
    layers = 1 + max(int(name.partition(":")[0]) for name in named if ":" in name)
    gated = "0:gate.weight" in named or bool(settings.get("use_swiglu_ffn"))
    activation = "swiglu" if gated else settings["hidden_act"]
    if activation not in ("gelu", "quick_gelu", "gelu_pytorch_tanh", "swiglu"):
        raise CheckpointError(f"a {kind} with activation {activation!r} is not supported")
    class_tokens = ("class" in named) + ("distillation" in named)
    places = named["positions"].reshape(-1, width).shape[0] - class_tokens
    heads = entry(settings, "num_attention_heads", int, where, CheckpointError)
    if kind == "dinov2" and "hidden_size" not in settings:
        heads = max(1, width // 64)  # every DINOv2 has heads of 64
    transformer = TransformerConfig(
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=named["0:mlp_out.weight"].shape[1],
        activation=activation,
        layer_norm_eps=float(
            entry(settings, "layer_norm_eps", (int, float), where, CheckpointError)
        ),
    )
    if heads < 1 or width % heads:
        raise CheckpointError(f"{where}: a width of {width} cannot have {heads} heads")
    if round(places**0.5) ** 2 != places:
        raise CheckpointError(f"{where}: {places} positions make no square grid")
    registers = len(named["registers"].reshape(-1, width)) if "registers" in named else 0
    return VitConfig(
        transformer,
        patch,
        patch * round(places**0.5),
        class_tokens,
        registers,
        norm_pre="norm_pre.weight" in named,
        antialias=kind == "dinov2_with_registers",
    )


def _params(config: VitConfig, named: Mapping[str, np.ndarray]) -> dict[str, Any]:
    t, count = config.transformer, config.class_tokens
    positions = named["positions"].reshape(-1, t.width)
    kernel = named["patch.weight"]
    params = {
        "patch_embedding": {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, t.width),
            "bias": named.get("patch.bias", np.zeros(t.width, np.float32)),
        },
        "positions": positions[count:],
        "blocks": jax.tree.map(
            lambda *leaves: np.stack(leaves), *(_block(t, named, i) for i in range(t.layers))
        ),
        "norm_post": _norm(named, "norm_post"),
    }
    if count:
        tokens = [named[name].reshape(1, -1) for name in ("class", "distillation") if name in named]
        params["class_tokens"] = np.concatenate(tokens) + positions[:count]
    if config.registers:
        params["registers"] = named["registers"].reshape(-1, t.width)
    if config.norm_pre:
        params["norm_pre"] = _norm(named, "norm_pre")
    return params


def _check_shapes(config: VitConfig, params: Mapping[str, Any]) -> None:
    """Raises ValueError for an array of another shape than the sizes ask for."""
    t = config.transformer
    gated = 2 if t.activation == "swiglu" else 1
    expected = {
        ("attention", "qkv", "kernel"): (t.width, 3 * t.width),
        ("attention", "qkv", "bias"): (3 * t.width,),
        ("attention", "out", "kernel"): (t.width, t.width),
        ("mlp_in", "kernel"): (t.width, gated * t.mlp_width),
        ("mlp_in", "bias"): (gated * t.mlp_width,),
        ("mlp_out", "kernel"): (t.mlp_width, t.width),
        ("mlp_out", "bias"): (t.width,),
        ("norm_1", "scale"): (t.width,),
        ("norm_2", "bias"): (t.width,),
    }
    for path, shape in expected.items():
        array: Any = params["blocks"]
        for name in path:
            array = array[name]
        if array.shape != (t.layers, *shape):
            raise ValueError(f"{'.'.join(path)} has shape {array.shape}, not {(t.layers, *shape)}")


def _block(t: TransformerConfig, named: Mapping[str, np.ndarray], layer: int) -> dict[str, Any]:
    one = lambda name: named[f"{layer}:{name}"]

    def dense(*names: str, scale: str = "") -> dict[str, np.ndarray]:
        kernel = np.concatenate([one(f"{name}.weight") for name in names]).T
        zeros = lambda name: np.zeros(len(one(f"{name}.weight")), np.float32)
        bias = np.concatenate([named.get(f"{layer}:{n}.bias", zeros(n)) for n in names])
        factor = named.get(f"{layer}:{scale}", np.float32(1))
        return {"kernel": kernel * factor, "bias": bias * factor}

    gated = t.activation == "swiglu" and f"{layer}:gate.weight" in named
    return {
        "attention": {"qkv": dense("query", "key", "value"), "out": dense("out", scale="scale_1")},
        "norm_1": _norm(named, f"{layer}:norm_1"),
        "norm_2": _norm(named, f"{layer}:norm_2"),
        "mlp_in": dense("gate", "up") if gated else dense("mlp_in"),
        "mlp_out": dense("mlp_out", scale="scale_2"),
    }


def _norm(named: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}


def _onnx_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A DINOv2's tensors by Hugging Face's names; what an exporter numbered is named after the
    operation that reads it.
    """
    graph = read_onnx(path)
    tensors = {name: x for name, x in graph.tensors.items() if "::" not in name}
    positions = {}
    for node in graph.nodes:
        for name in node.inputs:
            if name not in graph.tensors or "::" not in name:
                continue
            module = node.name.strip("/").replace("/", ".").rpartition(".")[0]
            if node.operation == "MatMul":
                tensors[f"{module}.weight"] = graph.tensors[name].T
            elif module.endswith("embeddings") and graph.tensors[name].ndim == 3:
                positions[node.operation] = graph.tensors[name][0]
    wanted = {name: x for name, x in tensors.items() if name.startswith("backbone.")}
    if set(positions) != {"Concat", "Reshape"} or not wanted:
        raise CheckpointError(f"{path} is not the export of a DINOv2 backbone")
    both = np.concatenate([positions["Concat"], positions["Reshape"]])
    return wanted | {"backbone.embeddings.position_embeddings": both}
