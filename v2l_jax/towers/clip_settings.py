"""What the files beside a CLIP's weights say of heads, activation and preprocessing; what nothing
says is assumed, and noted.

Hugging Face: config.json and preprocessor_config.json. OpenCLIP: open_clip_config.json.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from v2l_jax.data.transforms import CLIP_MEAN, CLIP_STD
from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import refuse_quantised_config
from v2l_jax.formats.text_files import entry, read_json

HUGGING_FACE_DEFAULTS = {
    "vision": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "text": {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
"""What transformers assumes where a config.json is silent."""

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_OPENCLIP_MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
_OPENCLIP_VISION = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
_OPENCLIP_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_OPENCLIP_PLAIN = {"hf_tokenizer_name", "tokenizer_kwargs", "init_logit_scale"}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tower's input.

    Attributes:
      mean, std: of each channel of RGB in [0, 1].
      resample: a key of `transforms.RESAMPLING`.
      short_side: pixels of the short side before the centre is cut out; 0 is the network's size.
      squash: the whole image is resized to the square instead, whatever its shape.
    """

    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resample: str = "bicubic"
    short_side: int = 0
    squash: bool = False


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """What is not in the weights.

    Attributes:
      vision, text: `num_attention_heads`, `hidden_act` and `layer_norm_eps` of each side, where
        known.
      preprocessing: of images.
      assumed: a sentence for each thing that no file says.
    """

    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    preprocessing: Preprocessing
    assumed: tuple[str, ...] = ()


def settings_beside(path: pathlib.Path, openai: bool = False) -> ClipSettings:
    """Reads what lies beside the weights.

    Args:
      path: a folder, or a file of weights, whose folder is looked into.
      openai: the file is one of OpenAI's own, for which nothing need be said.

    Raises:
      CheckpointError: a folder without a config, or settings that this tower does not have.
    """
    folder = path if path.is_dir() else path.parent
    openclip = folder / "open_clip_config.json"
    if (folder / "config.json").is_file() and (path.is_dir() or _describes_clip(folder)):
        sides = read_settings(folder)
        return ClipSettings(sides["vision"], sides["text"], *_preprocessor(folder))
    if openclip.is_file():
        return _openclip(openclip)
    if path.is_dir():
        raise CheckpointError(
            f"{folder} has no config.json: give the directory of a Hugging Face CLIP model"
        )
    if openai:
        return ClipSettings({}, {}, Preprocessing())
    assumed = (
        "activation QuickGELU, OpenAI's (most of LAION's weights have GELU)",
        "heads of width 64 (80, 88 and 104 in the image sides of H/14, g/14 and bigG/14)",
        "OpenAI's mean and standard deviation",
    )
    return ClipSettings({}, {}, Preprocessing(), assumed)


def changed(
    settings: ClipSettings,
    activation: str = "",
    heads: Sequence[int] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> ClipSettings:
    """Settings with those that the user states, which are then not assumed.

    Args:
      settings: what the files say.
      activation: "quick_gelu" or "gelu"; "" is what the files say, as () is below.
      heads: of the image and of the text side.
      mean, std: three numbers each.
    """
    vision, text, pre = dict(settings.vision), dict(settings.text), settings.preprocessing
    stated = []
    if activation:
        vision["hidden_act"] = text["hidden_act"] = activation
        stated.append("activation")
    if heads:
        vision["num_attention_heads"], text["num_attention_heads"] = heads
        stated.append("heads")
    if mean:
        pre = dataclasses.replace(pre, mean=tuple(mean))
    if std:
        pre = dataclasses.replace(pre, std=tuple(std))
    if mean and std:
        stated.append("OpenAI's mean")
    left = (a for a in settings.assumed if not any(a.startswith(s) for s in stated))
    return ClipSettings(vision, text, pre, tuple(left))


def _describes_clip(folder: pathlib.Path) -> bool:
    """Whether the config.json of a folder is of a CLIP; a file of weights may lie anywhere."""
    found = read_json(folder / "config.json", CheckpointError, None)
    return isinstance(found, Mapping) and found.get("model_type") == "clip"


def read_settings(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads heads, activation and epsilon of both sides from a Hugging Face config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json: give the directory of a Hugging Face CLIP model"
        )
    config = read_json(path, CheckpointError)
    if config.get("model_type") != "clip":
        raise CheckpointError(f"{folder} holds a {config.get('model_type')!r} model, not a 'clip'")
    refuse_quantised_config(config, str(path))
    settings = {}
    for side, defaults in HUGGING_FACE_DEFAULTS.items():
        # transformers lets the older "…_config_dict" win
        given = config.get(f"{side}_config_dict") or config.get(f"{side}_config") or {}
        if not isinstance(given, Mapping):
            raise CheckpointError(f"{path}: {side}_config must be an object")
        chosen = defaults | {key: given[key] for key in defaults if given.get(key) is not None}
        where = f"{path}, {side}_config"
        entry(chosen, "num_attention_heads", int, where, CheckpointError)
        entry(chosen, "layer_norm_eps", (int, float), where, CheckpointError)
        settings[side] = chosen
    return settings


def _preprocessor(folder: pathlib.Path) -> tuple[Preprocessing, tuple[str, ...]]:
    """The preprocessing that a Hugging Face folder states, and what is assumed."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            given = read_json(path, CheckpointError)
            given = given.get("image_processor", given)
            if isinstance(given, Mapping) and (name[0:3] == "pre" or "image_mean" in given):
                return _hugging_face_images(given, path), ()
    return Preprocessing(), (
        "OpenAI's mean and standard deviation (no preprocessor_config.json beside the weights)",
    )


def _hugging_face_images(given: Mapping[str, Any], path: pathlib.Path) -> Preprocessing:
    for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if given.get(key, True) is False and not (key == "do_center_crop" and _is_square(given)):
            raise CheckpointError(f"{path}: {key}=false is not supported; choose another CLIP")
    factor = given.get("rescale_factor") or 1 / 255
    if not isinstance(factor, (int, float)) or abs(factor - 1 / 255) > 1e-6:
        raise CheckpointError(f"{path}: rescale_factor is not 1/255, which is not supported")
    size = given.get("size") or {"shortest_edge": 0}
    short = size.get("shortest_edge", 0) if isinstance(size, Mapping) else size
    if not isinstance(short, int) or not (short or _is_square(given) or not given.get("size")):
        raise CheckpointError(
            f"{path}: size={size!r} is not supported, only the shortest edge, or height and width"
        )
    resample = 3 if given.get("resample") is None else given["resample"]
    if not isinstance(resample, int) or resample not in _RESAMPLING:
        raise CheckpointError(
            f"{path}: resample={resample!r} is not supported, only {sorted(_RESAMPLING)}"
        )
    return Preprocessing(
        three(given.get("image_mean") or CLIP_MEAN, "image_mean", path),
        three(given.get("image_std") or CLIP_STD, "image_std", path),
        _RESAMPLING[resample],
        short,
        _is_square(given),
    )


def _is_square(given: Mapping[str, Any]) -> bool:
    size = given.get("size")
    if not isinstance(size, Mapping) or "shortest_edge" in size or "height" not in size:
        return False
    return size.get("width", size["height"]) == size["height"]


def _openclip(path: pathlib.Path) -> ClipSettings:
    config = read_json(path, CheckpointError)
    model = entry(config, "model_cfg", dict, str(path), CheckpointError)
    vision = entry(model, "vision_cfg", dict, str(path), CheckpointError)
    text = entry(model, "text_cfg", dict, str(path), CheckpointError)
    for part, known in (
        (model, _OPENCLIP_MODEL), (vision, _OPENCLIP_VISION), (text, _OPENCLIP_TEXT),
    ):  # fmt: skip
        for key, value in part.items():
            if key not in known | _OPENCLIP_PLAIN and value not in (None, False):
                raise CheckpointError(
                    f"{path}: {key}={value!r} is not supported; choose a CLIP with a plain ViT"
                )
    activation = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    width = entry(vision, "width", int, str(path), CheckpointError)
    head_width = entry({"head_width": 64} | vision, "head_width", int, str(path), CheckpointError)
    if head_width < 1:
        raise CheckpointError(f"{path}: head_width is {head_width}, but must be at least 1")
    heads = width // head_width
    images = config.get("preprocess_cfg")
    if images and not isinstance(images, Mapping):
        raise CheckpointError(f"{path}: preprocess_cfg must be an object")
    assumed = () if images else ("OpenAI's mean and standard deviation (no preprocess_cfg)",)
    images = images or {}
    mode = images.get("resize_mode", "shortest")
    resample = str(images.get("interpolation", "bicubic"))
    if mode not in ("shortest", "squash") or resample not in _RESAMPLING.values():
        raise CheckpointError(
            f"{path}: resize_mode={mode!r} with interpolation={resample!r} is not supported"
        )
    return ClipSettings(
        activation | {"num_attention_heads": heads},
        activation
        | {
            "num_attention_heads": entry(
                {"heads": 8} | text, "heads", int, str(path), CheckpointError
            )
        },
        Preprocessing(
            three(images.get("mean", CLIP_MEAN), "mean", path),
            three(images.get("std", CLIP_STD), "std", path),
            resample,
            squash=mode == "squash",
        ),
        assumed,
    )


def three(values: Any, key: str, path: pathlib.Path) -> tuple[float, float, float]:
    """A number for each channel, of a file's setting.

    Raises:
      CheckpointError: it is anything but three finite numbers, or a deviation is not positive.
    """
    fits = isinstance(values, (list, tuple)) and len(values) == 3
    if not fits or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        raise CheckpointError(f"{path}: {key} is {values!r}, but must be three numbers")
    if key.endswith("std") and not all(v > 0 for v in values):
        raise CheckpointError(f"{path}: {key} is {values!r}, but must be positive")
    red, green, blue = map(float, values)
    return red, green, blue
