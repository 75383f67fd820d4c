"""BERT encoder (Devlin et al. 2019) and the sentence encoders built on it (Reimers & Gurevych
2019), e.g. MiniLM-L6.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import (
    CheckedTensors,
    fitting_together,
    refuse_quantised_config,
)
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.formats.text_files import entry, read_json
from v2l_jax.formats.tokenizer_files import check_ids, tokenizer_errors
from v2l_jax.ops.attention import SelfAttention
from v2l_jax.ops.matmul import dot_general_in
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.towers.text_batches import BUCKETS, encode_in_buckets


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder; field names are those of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12


# ours: (Hugging Face's, kind); "dense" transposes weights, "norm" renames weight to scale
LAYER_NAMES = {
    ("attention", "out"): ("attention.output.dense", "dense"),
    ("attention_norm",): ("attention.output.LayerNorm", "norm"),
    ("intermediate",): ("intermediate.dense", "dense"),
    ("output",): ("output.dense", "dense"),
    ("output_norm",): ("output.LayerNorm", "norm"),
}
QKV_NAMES = ("attention.self.query", "attention.self.key", "attention.self.value")


class BertLayer(nn.Module):
    """Post-norm transformer layer with exact (erf) GELU."""

    config: BertConfig
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"], lengths: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch length width"], None]:
        """Transforms `x`, attending to the first `lengths` positions; the pair is what `nn.scan`
        wants.
        """
        c = self.config
        dot = dot_general_in(self.matmul_dtype)
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[:, None, None, :]
        attended = SelfAttention(c.num_attention_heads, self.matmul_dtype, name="attention")(
            x, mask
        )
        x = nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="attention_norm")(
            x + attended
        )
        y = nn.gelu(
            nn.Dense(c.intermediate_size, dot_general=dot, name="intermediate")(x),
            approximate=False,
        )
        y = nn.Dense(c.hidden_size, dot_general=dot, name="output")(y)
        return nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="output_norm")(
            x + y
        ), None


class Bert(nn.Module):
    """BERT encoder for single segments, layers scanned.

    Attributes:
      config: sizes.
      matmul_dtype: type that matrix products round their operands to.
    """

    config: BertConfig
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch length"] | None,
        lengths: Int[Array, "batch"],
        inputs: Float[Array, "batch length width"] | None = None,
        positions: Int[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length width"]:
        """Encodes token ids; positions from `lengths` on are padding, and what comes out there
        means nothing.

        Args:
          ids: tokens; None where `inputs` are given.
          lengths: tokens of each text.
          inputs: vectors in place of the tokens' embeddings.
          positions: rows of the position table; 0, 1, … by default.
        """
        c = self.config
        x = inputs
        if x is None:
            x = nn.Embed(c.vocab_size, c.hidden_size, name="token_embedding")(ids)
        where = jnp.arange(x.shape[1]) if positions is None else positions
        x = x + nn.Embed(c.max_position_embeddings, c.hidden_size, name="position_embedding")(where)
        x = x + self.param("segment_embedding", nn.initializers.normal(0.02), (c.hidden_size,))
        x = nn.LayerNorm(c.layer_norm_eps, use_fast_variance=False, name="embedding_norm")(x)
        layers = nn.scan(
            BertLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_hidden_layers,
        )
        x, _ = layers(c, self.matmul_dtype, name="layers")(x, lengths)
        return x


def mean_pool(
    hidden: Float[Array, "batch length width"], lengths: Int[Array, "batch"]
) -> Float[Array, "batch width"]:
    """Averages the first `lengths` positions and L2-normalises (sentence-transformers' mean pooling
    + Normalize).
    """
    mask = jnp.arange(hidden.shape[1]) < lengths[:, None]
    mean = jnp.where(mask[..., None], hidden, 0).sum(axis=1) / lengths[:, None]
    return unit_vectors(mean)


@functools.partial(jax.jit, static_argnums=0)
def encode_sentences(
    model: Bert,
    params: dict[str, Any],
    ids: Int[Array, "batch length"],
    lengths: Int[Array, "batch"],
) -> Float[Array, "batch width"]:
    """Encodes token ids, real up to `lengths`, into unit vectors."""
    return mean_pool(model.apply({"params": params}, ids, lengths), lengths)


def convert_checkpoint(tensors: Mapping[str, np.ndarray], num_layers: int) -> dict[str, Any]:
    """Turns Hugging Face's `BertModel` tensors into `Bert` parameters, layers stacked on a leading
    axis.
    """
    tensors = CheckedTensors(
        {
            name.removeprefix("bert."): value
            for name, value in tensors.items()
            if name.startswith(("bert.", "encoder.", "embeddings."))
        },
        "the encoder",
    )

    def layer_params(i: int) -> dict[str, Any]:
        def at(name: str) -> np.ndarray:
            return tensors[f"encoder.layer.{i}.{name}"]

        layer: dict[str, Any] = {
            "attention": {
                "qkv": {
                    "kernel": np.concatenate([at(f"{name}.weight") for name in QKV_NAMES]).T,
                    "bias": np.concatenate([at(f"{name}.bias") for name in QKV_NAMES]),
                }
            }
        }
        for (*parents, leaf), (theirs, kind) in LAYER_NAMES.items():
            weight = (
                {"kernel": at(f"{theirs}.weight").T}
                if kind == "dense"
                else {"scale": at(f"{theirs}.weight")}
            )
            target = layer[parents[0]] if parents else layer
            target[leaf] = weight | {"bias": at(f"{theirs}.bias")}
        return layer

    layers = [layer_params(i) for i in range(num_layers)]
    params = {
        "token_embedding": {"embedding": tensors["embeddings.word_embeddings.weight"]},
        "position_embedding": {"embedding": tensors["embeddings.position_embeddings.weight"]},
        "segment_embedding": tensors["embeddings.token_type_embeddings.weight"][0],
        "embedding_norm": {
            "scale": tensors["embeddings.LayerNorm.weight"],
            "bias": tensors["embeddings.LayerNorm.bias"],
        },
        "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers),
    }
    tensors.refuse_unread(_WITHOUT_EFFECT)
    return params


_WITHOUT_EFFECT = (r"embeddings\.(position|token_type)_ids", r"pooler\..*", r"cls\..*")
"""Tensors of a BERT that the encoder does not need."""


def check_shapes(config: BertConfig, params: Mapping[str, Any], where: str) -> None:
    """Compares the encoder's arrays with what its config says.

    Raises:
      CheckpointError: names the first that has another shape.
    """
    width, inner = config.hidden_size, config.intermediate_size
    layers = {name: params["layers"][name] for name in ("intermediate", "output")}
    expected = {
        "token_embedding": ((config.vocab_size, width), params["token_embedding"]["embedding"]),
        "position_embedding": (
            (config.max_position_embeddings, width),
            params["position_embedding"]["embedding"],
        ),
        "segment_embedding": ((width,), params["segment_embedding"]),
        "intermediate": (
            (config.num_hidden_layers, width, inner),
            layers["intermediate"]["kernel"],
        ),
        "output": ((config.num_hidden_layers, inner, width), layers["output"]["kernel"]),
        "attention": (
            (config.num_hidden_layers, width, 3 * width),
            params["layers"]["attention"]["qkv"]["kernel"],
        ),
    }
    for name, (shape, array) in expected.items():
        if np.shape(array) != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {np.shape(array)}, but config.json says {shape}; they "
                "belong to different models"
            )


def load_bert(
    path: str | pathlib.Path, matmul_dtype: DTypeLike = jnp.float32
) -> tuple[Bert, dict[str, Any]]:
    """Reads a Hugging Face BERT directory (config.json, model.safetensors) into a model and its
    parameters.

    Raises:
      CheckpointError: the directory is not a BERT this module can run.
    """
    path = pathlib.Path(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json: give the directory of a Hugging Face BERT model"
        )
    raw = read_json(path / "config.json", CheckpointError)
    if raw.get("model_type") != "bert":
        raise CheckpointError(f"{path} holds a {raw.get('model_type')!r} model, not a 'bert'")
    unsupported = [
        f"{key} = {raw[key]!r}"
        for key, value in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"))
        if raw.get(key, value) != value
    ]
    if unsupported:
        raise CheckpointError(f"{path}: BERT with {', '.join(unsupported)} is not supported")
    refuse_quantised_config(raw, str(path / "config.json"))
    config = BertConfig(**sizes(raw, str(path / "config.json")))
    tensors = read_safetensors(path)
    CheckedTensors(tensors, str(path)).refuse_quantised()
    with fitting_together(str(path), "the BERT of its config"):
        params = convert_checkpoint(tensors, config.num_hidden_layers)
        check_shapes(config, params, str(path))
    return Bert(config, matmul_dtype), params


def sizes(raw: Mapping[str, Any], where: str, vocab_size: int = 30522) -> dict[str, Any]:
    """The fields of `BertConfig` that a config.json states, or that transformers assumes.

    Args:
      raw: the config.
      where: what to call it in an error.
      vocab_size: what transformers assumes where it says nothing.
    """
    found = {"vocab_size": vocab_size, "hidden_size": 768, "num_hidden_layers": 12}
    found |= {"num_attention_heads": 12, "intermediate_size": 3072}
    found |= {f.name: raw[f.name] for f in dataclasses.fields(BertConfig) if f.name in raw}
    for name in found:
        kinds = (int, float) if name == "layer_norm_eps" else int
        if entry(found, name, kinds, where, CheckpointError) <= 0:
            raise CheckpointError(f"{where}: {name} is {found[name]}, but must be positive")
    if found["hidden_size"] % found["num_attention_heads"]:
        raise CheckpointError(
            f"{where}: the width {found['hidden_size']} is not a multiple of "
            f"{found['num_attention_heads']} heads"
        )
    return found


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
    """Texts to unit vectors: a BERT with mean pooling and its tokenizer.

    Attributes:
      name: name of the directory it came from.
      model, params: the network.
      tokenizer: a `tokenizers.Tokenizer` that truncates to the encoder's length and does not pad.
    """

    name: str
    model: Bert
    params: dict[str, Any]
    tokenizer: Any

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.model.config.hidden_size

    def encode_texts(
        self, texts: Sequence[str], batch_size: int = 256
    ) -> Float[np.ndarray, "text dim"]:
        """Encodes texts, padded to a few bucket lengths, into L2-normalised float32 vectors."""
        token_ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        encode = functools.partial(encode_sentences, self.model, self.params)
        return encode_in_buckets(token_ids, encode, batch_size, "Encoding texts")


def load_sentence_encoder(
    path: str | pathlib.Path, matmul_dtype: DTypeLike = jnp.float32, max_length: int | None = None
) -> SentenceEncoder:
    """Reads a sentence-transformers directory with BERT, mean pooling and normalisation (e.g.
    all-MiniLM-L6-v2).

    Args:
      path: directory with config.json, model.safetensors and tokenizer.json.
      matmul_dtype: see `Bert`.
      max_length: longest text in tokens, the rest is cut; by default what sentence_bert_config.json
        says.

    Raises:
      CheckpointError: a file is missing or describes another kind of encoder.
    """
    import tokenizers

    path = pathlib.Path(path)
    model, params = load_bert(path, matmul_dtype)
    pooling = path / "1_Pooling" / "config.json"
    if pooling.is_file() and not read_json(pooling, CheckpointError).get(
        "pooling_mode_mean_tokens", True
    ):
        raise CheckpointError(
            f"{path} does not pool by the mean; only mean-pooled sentence encoders are supported"
        )
    if max_length is None:
        settings = path / "sentence_bert_config.json"
        said = read_json(settings, CheckpointError) if settings.is_file() else {}
        max_length = entry(
            {"max_seq_length": 128} | said, "max_seq_length", int, str(settings), CheckpointError
        )
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(f"{path} has no tokenizer.json")
    longest = min(max_length, model.config.max_position_embeddings, BUCKETS[-1])
    with tokenizer_errors(path):
        tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        check_ids(tokenizer, model.config.vocab_size, str(path))
    return SentenceEncoder(path.name, model, jax.device_put(params), tokenizer)
