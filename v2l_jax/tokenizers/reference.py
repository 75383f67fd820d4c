"""Checkpoints of the published PyTorch code (zh460045050/V2L-Tokenizer) as this package's model and
variables.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import CheckedTensors, arrays_by_name, fitting_together
from v2l_jax.tokenizers.v2l_network import V2LTokenizer
from v2l_jax.training.discriminator import PatchDiscriminator

# (regular expression, path here): module names; the leaf (weight, bias, …) is handled by `_leaf`.
_TOKENIZER_NAMES = (
    (r"quant_conv", r"to_words"),
    (r"post_quant_conv", r"from_words"),
    (r"codebook_projection", r"projector"),
    (r"decoder\.conv_out", r"conv_out"),
    (r"(encoder|decoder)\.(conv_in|norm_out|conv_out)", r"\1/\2"),
    (r"(encoder|decoder)\.mid\.(block_\d)\.(\w+)", r"\1/middle/\2/\3"),
    (r"(encoder|decoder)\.mid\.attn_1\.(\w+)", r"\1/middle/attention/\2"),
    (r"(encoder|decoder)\.mid\.cross_attn_1\.(\w+)(?:\.0)?", r"\1/middle/cross_attention/\2"),
    (r"(encoder|decoder)\.(?:down|up)\.(\d+)\.block\.(\d+)\.(\w+)", r"\1/level_\2_block_\3/\4"),
    (r"(encoder|decoder)\.(?:down|up)\.(\d+)\.attn\.(\d+)\.(\w+)", r"\1/level_\2_attention_\3/\4"),
    (r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(downsample|upsample)\.conv", r"\1/level_\2_\3"),
)
_LAYER_NAMES = {
    "nin_shortcut": "shortcut",
    "q": "query",
    "k": "key",
    "v": "value",
    "proj_out": "out",
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out": "out",
}
_NOMINAL_RESOLUTION = 256
_WHAT = "a V2L checkpoint in the released layout"
_TOWER_PREFIX = "global_encoder."
_BATCH_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


def load_reference(path: str | pathlib.Path) -> tuple[V2LTokenizer, dict[str, Any]]:
    """Reads a tokenizer in the released layout; every size is inferred from the arrays.

    Args:
      path: a PyTorch file, `{"state_dict": {name: tensor}}` (the training script's last checkpoint
        says "model"); read without executing anything.

    Returns:
      The model and its variables: "params", and "frozen" with local_words, global_words and the
        CLIP image tower.

    Raises:
      CheckpointError: the file lacks an array, or arrays do not fit together.
    """
    return tokenizer_from_reference(read_reference(path))


def read_reference(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint in the released layout, by their published names: a PyTorch
    file, or the same arrays as .safetensors.

    Raises:
      CheckpointError: the file holds no arrays by name.
    """
    from v2l_jax.formats.safetensors_files import read_safetensors
    from v2l_jax.formats.torch_files import read_torch

    if pathlib.Path(path).suffix == ".safetensors":
        tree: Any = dict(read_safetensors(path))
    else:
        tree = read_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
            break
    return arrays_by_name(tree, str(path))


def tokenizer_from_reference(
    arrays: Mapping[str, np.ndarray],
) -> tuple[V2LTokenizer, dict[str, Any]]:
    """Builds model and variables from published names and PyTorch layouts; see `load_reference`."""
    from v2l_jax.towers.clip import ClipImage, encode_image
    from v2l_jax.towers.clip_weights import image_side

    visual = {
        n.removeprefix(_TOWER_PREFIX): a for n, a in arrays.items() if n.startswith(_TOWER_PREFIX)
    }
    with fitting_together("the file", _WHAT):
        tower_config, tower_params = image_side(CheckedTensors(visual, "the CLIP tower"))
    model, variables = network_from_reference(arrays)
    model = model.clone(semantic_tower=functools.partial(encode_image, ClipImage(tower_config)))
    variables["frozen"]["tower"] = tower_params
    return model, jax.device_put(variables)


def network_from_reference(arrays: Mapping[str, np.ndarray]) -> tuple[V2LTokenizer, dict[str, Any]]:
    """As `tokenizer_from_reference`, without the CLIP image tower: vectors of images are given."""
    with fitting_together("the file", _WHAT):
        model = _infer_model(arrays)
        frozen = {
            "local_words": _words(arrays, "tok_embeddings.weight", model.word_dim),
            "global_words": _words(arrays, "tok_embeddings_global.weight", model.word_dim),
        }
        params = reference_params(arrays)
        check_shapes(v2l_shapes(model), params)
    return model, {"params": params, "frozen": frozen}


def _words(arrays: Mapping[str, np.ndarray], name: str, dim: int) -> np.ndarray:
    words = np.asarray(arrays[name], np.float32)
    if words.ndim != 2 or words.shape[1] != dim:
        raise ValueError(f"{name} has shape {words.shape}, but words have {dim} numbers")
    return words


def parameter_path(name: str) -> tuple[str, ...] | None:
    """Path within "params" of a published tokenizer parameter name; None if it is not a trained
    tokenizer parameter.
    """
    module, _, leaf = name.rpartition(".")
    for pattern, path in _TOKENIZER_NAMES:
        match = re.fullmatch(pattern, module)
        if match:
            *parents, layer = match.expand(path).split("/")
            layer = _LAYER_NAMES.get(layer, layer)
            return (*parents, layer, _leaf(layer, leaf))
    return None


def _leaf(layer: str, leaf: str) -> str:
    if leaf == "weight":
        return "scale" if layer.startswith("norm") else "kernel"
    return leaf


def to_flax_layout(array: np.ndarray) -> np.ndarray:
    """PyTorch's convolution (out, in, h, w) and linear (out, in) weights as Flax kernels; 1×1
    counts as linear.
    """
    array = np.asarray(array, np.float32)
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(array.T)


def reference_params(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The "params" that published arrays make: those of encoder, decoder and quantizer."""
    params: dict[str, Any] = {}
    checked = CheckedTensors(arrays, "the checkpoint")
    for name in arrays:
        path = parameter_path(name)
        if path is not None:
            _put(params, path, to_flax_layout(checked[name]))
    return params


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def autoencoder_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The sizes of encoder and decoder, by the names that networks here give them.

    Raises:
      KeyError: an array is missing.
    """
    levels = count_numbered(arrays, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    channels = arrays["encoder.conv_in.weight"].shape[0]
    attending = [
        level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in arrays
    ]
    return {
        "channels": channels,
        "channel_multipliers": tuple(
            arrays[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // channels
            for level in range(levels)
        ),
        "num_res_blocks": count_numbered(arrays, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight"),
        "z_channels": arrays["encoder.conv_out.weight"].shape[0],
        "attn_resolutions": tuple(_NOMINAL_RESOLUTION >> level for level in attending),
        "resolution": _NOMINAL_RESOLUTION,
    }


def _infer_model(arrays: Mapping[str, np.ndarray]) -> V2LTokenizer:
    sizes = autoencoder_sizes(arrays)
    width = sizes["channels"] * sizes["channel_multipliers"][-1]
    queries = arrays.get("decoder.mid.cross_attn_1.to_q.weight")  # none without global words
    return V2LTokenizer(
        **sizes,
        word_dim=arrays["quant_conv.weight"].shape[0],
        num_local_words=arrays["tok_embeddings.weight"].shape[0],
        num_global_words=arrays["tok_embeddings_global.weight"].shape[0],
        cross_attention_heads=0 if queries is None else queries.shape[0] // width,
    )


def count_numbered(arrays: Iterable[str], pattern: str) -> int:
    """How many parts a network has that its arrays' names number from 0 on.

    Args:
      arrays: their names.
      pattern: regular expression of a whole name, with the number as its group.

    Raises:
      KeyError: there is none, or a number is left out.
    """
    matches = (re.fullmatch(pattern, name) for name in arrays)
    found = {int(match[1]) for match in matches if match}
    if not found or max(found) >= len(found):
        raise KeyError(pattern)
    return len(found)


@functools.lru_cache(maxsize=16)
def v2l_shapes(model: V2LTokenizer) -> dict[str, Any]:
    """Shapes of a V2L model's parameters."""
    side = model.downsampling
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    image_embedding = jax.ShapeDtypeStruct((1, model.word_dim), jnp.float32)
    init = lambda a, b: model.init(jax.random.key(0), a, b, 1)["params"]
    return jax.eval_shape(init, image, image_embedding)


def check_shapes(expected: dict[str, Any], params: dict[str, Any]) -> None:
    """Raises CheckpointError for the first parameter that is missing, superfluous, or of another
    shape than expected.
    """
    expected, found = _shapes(expected), _shapes(params)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"the checkpoint's arrays do not fit together: {name} has shape {found.get(name)}, "
                f"the other arrays ask for {expected.get(name)}"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }


def discriminator_from_reference(
    arrays: Mapping[str, np.ndarray],
) -> tuple[PatchDiscriminator, dict[str, Any]]:
    """Builds the discriminator and its variables from the `discriminator.main.*` arrays of a
    checkpoint.

    Raises:
      CheckpointError: an array is missing.
    """
    prefix = "discriminator.main"
    indices = sorted(
        {
            int(n.split(".")[2])
            for n, a in arrays.items()
            if n.startswith(prefix) and np.ndim(a) == 4
        }
    )
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    try:
        for layer, index in enumerate(indices):
            params[f"conv_{layer}"] = {"kernel": to_flax_layout(arrays[f"{prefix}.{index}.weight"])}
            if layer in (0, len(indices) - 1):
                params[f"conv_{layer}"]["bias"] = np.asarray(
                    arrays[f"{prefix}.{index}.bias"], np.float32
                )
            else:  # A BatchNorm follows each convolution between the first and the last.
                names = {leaf: f"{prefix}.{index + 1}.{leaf}" for leaf in _BATCH_NORM_LEAVES}
                norm = {leaf: np.asarray(arrays[name], np.float32) for leaf, name in names.items()}
                params[f"norm_{layer}"] = {"scale": norm["weight"], "bias": norm["bias"]}
                batch_stats[f"norm_{layer}"] = {
                    "mean": norm["running_mean"],
                    "var": norm["running_var"],
                }
        channels = params["conv_0"]["kernel"].shape[-1]
    except KeyError as error:
        raise CheckpointError(
            f"checkpoint holds no complete discriminator: it lacks {error}"
        ) from error
    model = PatchDiscriminator(channels=channels, num_layers=len(indices) - 2)
    return model, {"params": params, "batch_stats": batch_stats}
