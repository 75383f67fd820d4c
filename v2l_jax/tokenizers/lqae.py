"""LQAE (Liu et al. 2023, "Language Quantized AutoEncoders"): an image becomes tokens of a masked
language model, which helps to redraw it.

One token stream "local", [b, h, w]. The codebook is the language model's word embeddings, frozen.
In training half of the tokens are hidden from the language model, whose last hidden states (or,
with `ste`, whose likeliest words) the decoder reads; otherwise none is.

Without a language model (`language_model=""`) the codebook is the run's local words and the decoder
reads their vectors: so Zhu et al. 2024 could have re-implemented LQAE on LLaMA's vocabulary
("LQAE*" of Table 4; the paper does not say how RoBERTa was replaced).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from v2l_jax.assets import fetch as assets
from v2l_jax.errors import ConfigError
from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.unit_vectors import reciprocal_lengths
from v2l_jax.options import FLAG, POSITIVE, TEXT, WEIGHT, number, option
from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, Variables, VisualTokenizer
from v2l_jax.tokenizers.lqae_network import LQAENetwork
from v2l_jax.tokenizers.quantizers.base import nearest_ids, straight_through
from v2l_jax.towers.roberta import MaskedLanguageModel, load_masked_language_model

WORDS = ("local",)
MEAN, STD = np.asarray([0.485, 0.456, 0.406], "f"), np.asarray([0.229, 0.224, 0.225], "f")
"""Of ImageNet's pixels in [0, 1]: what the published networks see and paint."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of LQAE; the defaults are the published run's, but for the image's size."""

    language_model: str = option(
        "hf://FacebookAI/roberta-base",
        "a RoBERTa or BERT: a registered asset, hf://organisation/model, or a path; '' is none",
        TEXT,
    )
    patch: int = option(16, "side of a patch in pixels; each is a token", POSITIVE)
    layers: int = option(12, "of encoder and decoder each", POSITIVE)
    heads: int = option(12, "of attention", POSITIVE)
    inner: int = option(3072, "width inside the blocks", POSITIVE)
    masked: float = option(
        0.5, "share of tokens that training hides from the language model", number(0, 1)
    )
    ste: bool = option(
        False,
        "the decoder reads embeddings of the language model's likeliest words, straight-through",
        FLAG,
    )
    commitment: float = option(
        0.005, "of the features to their words; counts twice, as published", WEIGHT
    )
    pixels: float = option(
        1.0, "of the mean squared error in normalized pixels, beside the trainer's losses", WEIGHT
    )
    words: float = option(
        1e-4, "of the cross-entropy of the hidden tokens, where the model has a head", WEIGHT
    )


@dataclasses.dataclass(frozen=True)
class LQAE(VisualTokenizer):
    """Vision transformers around a frozen masked language model.

    "frozen" has "local_words" [tokens, hidden] and "language_model", its parameters.

    Attributes:
      network: the Flax module.
      entries: tokens of the codebook.
      model: the language model; None for none.
      address: where its parameters come from.
      masked, ste, commitment, pixels, words: see `Options`.
      mesh: devices that share the search for the nearest token.
    """

    network: LQAENetwork
    entries: int
    model: MaskedLanguageModel | None = None
    address: str = ""
    masked: float = 0.5
    ste: bool = False
    commitment: float = 0.005
    pixels: float = 1.0
    words: float = 1e-4
    mesh: Mesh | None = None

    encoder_parameters = "^(encoder|patches)"

    @property
    def codebooks(self) -> Mapping[str, int]:
        """The language model's tokens."""
        return {"local": self.entries}

    @property
    def word_streams(self) -> Mapping[str, str]:
        """The local words, where there is no language model with words of its own."""
        return {} if self.model else {"local": "local"}

    def texts_of(self, ids: Int[Any, " ids"]) -> str | None:
        """The tokens in the language model's own spelling; None without one."""
        if self.model is None:
            return None
        return _tokenizer(self.address).decode([int(i) for i in ids], skip_special_tokens=False)

    @property
    def dtype(self) -> Dtype:
        """Type of convolutions and matrix products."""
        return self.network.dtype

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """squared_error, quantizer_loss and, with a language model that has a head, masked_loss."""
        weights = {"squared_error": self.pixels, "quantizer_loss": 1.0}
        return weights | ({"masked_loss": self.words} if self._has_head else {})

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The codebook and the language model; the run's words where there is none."""
        if self.model is None:
            return {"local_words": words["local"]}
        params = _load(self.address)[1]
        table = params["token_embedding"]["embedding"]
        return {"local_words": table, "language_model": params}

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters of the network."""
        return {"params": self.network.init(key, batch["image"])["params"]}

    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Encodes, quantizes, hides some tokens from the language model, and decodes."""
        del step
        grid = [side // self.network.patch for side in batch["image"].shape[1:3]]
        shape = (len(batch["image"]), grid[0] * grid[1])
        return self.forward(variables, batch, jax.random.bernoulli(key, self.masked, shape))

    def forward(
        self, variables: Variables, batch: Batch, mask: Bool[Array, "b tokens"]
    ) -> TrainOutput:
        """The training pass with given hidden tokens.

        Its quantizer_loss has the published value, 2·(commitment + 1)·mean((e − z)²), of which only
        the commitment has a gradient, for the embeddings are frozen. masked_loss is the mean over
        images of the cross-entropy per hidden token.
        """
        image, stop = normalized(batch["image"]), jax.lax.stop_gradient
        features = self._apply(variables, "features", image)
        ids = self._nearest(variables, features)
        chosen = self._table(variables)[ids]
        apart = jnp.mean((stop(chosen) - features) ** 2)
        losses = {"quantizer_loss": 2.0 * (self.commitment * apart + stop(apart))}
        read, cross_entropy = self._read(variables, straight_through(features, chosen), ids, mask)
        if self._has_head:
            losses["masked_loss"] = cross_entropy
        last = self._apply(variables, "decode_features", read)
        pixels = self._apply(variables, "to_pixels", last)
        losses["squared_error"] = jnp.mean((image - pixels) ** 2)
        return TrainOutput(denormalized(pixels), last, losses, {"local": ids})

    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """Nearest tokens in raster order."""
        features = self._apply(variables, "features", normalized(batch["image"]))
        return {"local": self._nearest(variables, features)}

    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images from tokens; the language model reads all of them."""
        ids = tokens["local"]
        mask = jnp.zeros((len(ids), ids.shape[1] * ids.shape[2]), bool)
        read = self._read(variables, self._table(variables)[ids], ids, mask)[0]
        return self.to_image(variables, self._apply(variables, "decode_features", read))

    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w d"]
    ) -> Float[Array, "b height width 3"]:
        """The last layer, in [-1, 1]."""
        return denormalized(self._apply(variables, "to_pixels", last_features))

    def on_mesh(self, mesh: Mesh | None) -> "LQAE":
        """The search for the nearest token, shared by a mesh's devices."""
        return dataclasses.replace(self, mesh=mesh)

    def with_dtype(self, dtype: Dtype) -> "LQAE":
        """The same network with other matrix products; the language model stays float32."""
        return dataclasses.replace(self, network=self.network.clone(dtype=dtype))

    @property
    def _has_head(self) -> bool:
        return self.model is not None and self.model.has_head

    def _read(
        self,
        variables: Variables,
        vectors: Float[Array, "b h w d"],
        ids: Int[Array, "b h w"],
        mask: Bool[Array, "b tokens"],
    ) -> tuple[Float[Array, "b h w d"], Float[Array, ""]]:
        """What the decoder reads, and the cross-entropy of the hidden tokens (0 without a head)."""
        model = self.model
        if model is None:
            return vectors, jnp.zeros(())
        params = jax.lax.stop_gradient(variables["frozen"]["language_model"])
        table, flat = model.embeddings(params), ids.reshape(len(ids), -1)
        inputs = vectors.reshape(*flat.shape, -1)
        inputs = jnp.where(mask[..., None], table[model.mask_id], inputs)
        hidden = model.hidden(params, inputs, flat)
        if not self._has_head:
            return hidden.reshape(vectors.shape), jnp.zeros(())
        logits = model.logits(params, hidden)
        shares = jax.nn.log_softmax(logits)
        each = -jnp.take_along_axis(shares, flat[..., None], axis=-1)[..., 0]
        hidden_count = jnp.maximum(jnp.sum(mask, axis=1), 1)
        cross_entropy = jnp.mean(jnp.sum(mask * each, axis=1) / hidden_count)
        if self.ste:
            soft = jnp.matmul(jnp.exp(shares), table, precision=EXACT)
            hidden = straight_through(soft, table[jnp.argmax(logits, axis=-1)])
        return hidden.reshape(vectors.shape), cross_entropy

    def _nearest(
        self, variables: Variables, features: Float[Array, "b h w d"]
    ) -> Int[Array, "b h w"]:
        """By the angle between features and tokens."""
        unit = lambda x: x * reciprocal_lengths(x)
        return nearest_ids(unit(features), unit(self._table(variables)), self.mesh)

    def _table(self, variables: Variables) -> Float[Array, "entries d"]:
        return jax.lax.stop_gradient(variables["frozen"]["local_words"])

    def _apply(self, variables: Variables, method: str, *inputs: Any) -> Any:
        return self.network.apply({"params": variables["params"]}, *inputs, method=method)


def normalized(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [-1, 1] as the network sees them."""
    return ((image + 1.0) / 2.0 - MEAN) / STD


def denormalized(pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """What the network paints, in [-1, 1]."""
    return (pixels * STD + MEAN) * 2.0 - 1.0


@functools.lru_cache(maxsize=1)
def _load(address: str) -> tuple[MaskedLanguageModel, dict[str, Any]]:
    return load_masked_language_model(assets.fetch(address), address)


@functools.lru_cache(maxsize=1)
def _tokenizer(address: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(assets.fetch(address) / "tokenizer.json"))


def check(model: Any) -> None:
    """Raises ConfigError where images do not divide into patches, or the width into heads."""
    c = model.lqae
    if model.image_size % c.patch:
        raise ConfigError(
            f"config.model.lqae.patch is {c.patch}, but must divide image_size, {model.image_size}"
        )


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> LQAE:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`.

    Raises:
      ConfigError: the codebook's width does not divide into heads, or an image has more tokens than
        the language model reads.
    """
    del train
    c, language_model = model.lqae, None
    entries, width = words["local"].shape
    if c.language_model:
        language_model = _load(c.language_model)[0]
        entries, width = language_model.config.vocab_size, language_model.config.hidden_size
        tokens = (model.image_size // c.patch) ** 2
        if tokens > language_model.longest:
            raise ConfigError(
                f"config.model.lqae.patch is {c.patch}: {tokens} tokens an image, but "
                f"{c.language_model} reads {language_model.longest}"
            )
    if width % c.heads:
        raise ConfigError(f"config.model.lqae.heads is {c.heads}, but must divide {width}")
    network = LQAENetwork(c.patch, width, c.layers, c.heads, c.inner, dtype)
    return LQAE(
        network,
        entries,
        language_model,
        c.language_model,
        c.masked,
        c.ste,
        c.commitment,
        c.pixels,
        c.words,
    )
