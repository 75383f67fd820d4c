"""Checkpoints of the published LQAE code (lhao499/language-quantized-autoencoders)."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.errors import AssetError, CheckpointError
from v2l_jax.formats.checked_tensors import arrays_by_name, fitting_together
from v2l_jax.formats.pickles import read_pickled_arrays
from v2l_jax.tokenizers.lqae import LQAE
from v2l_jax.tokenizers.lqae_network import LQAENetwork
from v2l_jax.tokenizers.reference import check_shapes, count_numbered
from v2l_jax.towers.bert import LAYER_NAMES, QKV_NAMES, BertConfig
from v2l_jax.towers.roberta import MaskedLanguageModel

_HEAD_WIDTH = 64
# (regular expression on the published path, path here)
_NAMES = (
    (r"encoder/ConvPatches_0/patch_embeds/kernel", "patches/kernel"),
    (r"(encoder|decoder)/pos_embedding", r"\1/position"),
    (r"decoder/ConvTranspose_0/(kernel|bias)", r"conv_out/\1"),
    (r"(\w+)/Transformer_0/(\d+)/LayerNorm_0/(\w+)", r"\1/block_\2_norm_in/\3"),
    (r"(\w+)/Transformer_0/(\d+)/LayerNorm_1/(\w+)", r"\1/block_\2_norm_out/\3"),
    (r"(\w+)/Transformer_0/(\d+)/Attention_0/Dense_0/(\w+)", r"\1/block_\2_attention/query/\3"),
    (r"(\w+)/Transformer_0/(\d+)/Attention_0/Dense_1/(\w+)", r"\1/block_\2_attention/key/\3"),
    (r"(\w+)/Transformer_0/(\d+)/Attention_0/Dense_2/(\w+)", r"\1/block_\2_attention/value/\3"),
    (r"(\w+)/Transformer_0/(\d+)/Attention_0/Dense_3/(\w+)", r"\1/block_\2_attention/out/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/fc1/(\w+)", r"\1/block_\2_unit/gate/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/fc2/(\w+)", r"\1/block_\2_unit/value/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/fc_out/(\w+)", r"\1/block_\2_unit/out/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/layernorm_0/(\w+)", r"\1/block_\2_unit/norm_in/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/layernorm_1/(\w+)", r"\1/block_\2_unit/norm_inner/\3"),
    (r"(\w+)/Transformer_0/(\d+)/GLU_0/mid_ffn_conv/(\w+)", r"\1/block_\2_unit/convolution/\3"),
)
_LANGUAGE_MODEL = "lang_model/"


def load_lqae(
    path: str | pathlib.Path, words: np.ndarray, mask_id: int, **heads: int
) -> tuple[LQAE, dict[str, Any]]:
    """Reads a `model.pkl` of the published code; executes nothing that it names.

    Args:
      path: a cloudpickle {"state": TrainState, …}; sizes are inferred from its arrays.
      words: the language model's word embeddings [tokens, width], which the file does not hold: row
        order as in RoBERTa's vocabulary.
      mask_id: the row of `<mask>`.
      heads: as in `lqae_from_arrays`.

    Returns:
      The tokenizer and its variables.

    Raises:
      CheckpointError: the file is no such checkpoint, or arrays are missing, unknown or misshapen.
    """
    try:
        tree = read_pickled_arrays(path, ("state", "params", "params"))
    except AssetError as error:
        raise CheckpointError(f"{path} is no checkpoint of LQAE: {error}") from error
    flat = dict(_flat(tree)) if isinstance(tree, Mapping) else tree
    return lqae_from_arrays(arrays_by_name(flat, str(path)), words, mask_id, **heads)


def lqae_from_arrays(
    arrays: Mapping[str, np.ndarray],
    words: np.ndarray,
    mask_id: int,
    heads: int = 0,
    model_heads: int = 0,
    ste: bool = False,
) -> tuple[LQAE, dict[str, Any]]:
    """Builds tokenizer and variables from published names; see `load_lqae`.

    Args:
      arrays: by path below "params", joined by "/".
      words, mask_id: as in `load_lqae`.
      heads: of the transformers' attention, which no array tells; 0 is one for each 64 channels.
      model_heads: the language model's, likewise.
      ste: which of the two straight-through variants it was trained as.
    """
    model_arrays = {
        key.removeprefix(_LANGUAGE_MODEL): np.asarray(x, np.float32)
        for key, x in arrays.items()
        if key.startswith(_LANGUAGE_MODEL)
    }
    params: dict[str, Any] = {}
    for key, x in arrays.items():
        if not key.startswith(_LANGUAGE_MODEL):
            _put(params, _path_of(key), np.asarray(x, np.float32))
    with fitting_together("the file", "a checkpoint of LQAE"):
        patch, _, _, hidden = arrays["encoder/ConvPatches_0/patch_embeds/kernel"].shape
        inner = arrays["encoder/Transformer_0/0/GLU_0/fc1/kernel"].shape[1]
        blocks = count_numbered(arrays, r"encoder/\w+/(\d+)/GLU_0/fc1/kernel")
        network = LQAENetwork(patch, hidden, blocks, heads or hidden // _HEAD_WIDTH, inner)
        model, model_params = _language_model(model_arrays, words, mask_id, model_heads)
        tokenizer = LQAE(network, len(words), model, ste=ste)
        side = arrays["encoder/pos_embedding"].shape[1] * patch
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        init = lambda image: tokenizer.init(jax.random.key(0), {"image": image})["params"]
        check_shapes(jax.eval_shape(init, image), params)
    frozen = {"local_words": np.asarray(words, np.float32), "language_model": model_params}
    return tokenizer, {"params": params, "frozen": frozen}


def _path_of(name: str) -> tuple[str, ...]:
    for pattern, path in _NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return tuple(match.expand(path).split("/"))
    raise CheckpointError(f"a checkpoint of LQAE has no array {name}; only its ViT form is read")


def _language_model(
    arrays: Mapping[str, np.ndarray], words: np.ndarray, mask_id: int, heads: int
) -> tuple[MaskedLanguageModel, dict[str, Any]]:
    positions = arrays["embeddings/position_embeddings/embedding"]
    layers = 1 + max(int(m[1]) for m in map(re.compile(r"encoder/layer/(\d+)/").match, arrays) if m)
    width = positions.shape[1]

    def layer(number: int) -> dict[str, Any]:
        at = lambda name: arrays[f"encoder/layer/{number}/{name.replace('.', '/')}"]
        qkv = {
            leaf: np.concatenate([at(f"{name}.{leaf}") for name in QKV_NAMES], axis=-1)
            for leaf in ("kernel", "bias")
        }
        found: dict[str, Any] = {"attention": {"qkv": qkv}}
        for names, (theirs, kind) in LAYER_NAMES.items():
            first = "kernel" if kind == "dense" else "scale"
            _put(found, names, {leaf: at(f"{theirs}.{leaf}") for leaf in (first, "bias")})
        return found

    part = lambda name, *leaves: {leaf: arrays[f"{name}/{leaf}"] for leaf in leaves}
    params = {
        "token_embedding": {"embedding": np.asarray(words, np.float32)},
        "position_embedding": {"embedding": positions},
        "segment_embedding": arrays["embeddings/token_type_embeddings/embedding"][0],
        "embedding_norm": part("embeddings/LayerNorm", "scale", "bias"),
        "layers": jax.tree.map(lambda *x: np.stack(x), *map(layer, range(layers))),
        "head": {
            "dense": part("lm_head/dense", "kernel", "bias"),
            "norm": part("lm_head/layer_norm", "scale", "bias"),
            "bias": arrays["lm_head/bias"],
        },
    }
    inner = arrays["encoder/layer/0/intermediate/dense/kernel"].shape[1]
    heads = heads or width // _HEAD_WIDTH
    config = BertConfig(len(words), width, layers, heads, inner, len(positions), 1e-5)
    return MaskedLanguageModel("roberta of the checkpoint", config, mask_id), params


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
