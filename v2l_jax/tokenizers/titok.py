"""TiTok (Yu et al. 2024, "An image is worth 32 tokens"): an image becomes a short row of tokens
that belong to no place in it.

Latent tokens go through a vision transformer beside the image's patches, and they alone are
quantized, as unit vectors of few dimensions; a second transformer paints all patches from them.
One token stream "latent", [b, tokens].

The published models train in two stages, first on the codes of another VQ-GAN; here the network
trains on pixels from the start, by the trainer's losses, so its published numbers are out of reach.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float

from v2l_jax.errors import ConfigError
from v2l_jax.ops.attention import SelfAttention
from v2l_jax.ops.precision import precision_of
from v2l_jax.options import POSITIVE, option
from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, Variables, VisualTokenizer
from v2l_jax.tokenizers.lqae_network import PatchesToPixels
from v2l_jax.tokenizers.quantizers.vq_l2 import Options as UnitCodebook

WORDS = ()
_normal = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of TiTok; the defaults are its base size with 64 tokens, at 128 px."""

    tokens: int = option(64, "an image", POSITIVE)
    patch: int = option(8, "side of a patch in pixels", POSITIVE)
    hidden: int = option(768, "width of the transformers", POSITIVE)
    layers: int = option(12, "of encoder and decoder each", POSITIVE)
    heads: int = option(12, "of attention", POSITIVE)
    rows: int = option(4_096, "entries of the codebook", POSITIVE)
    width: int = option(12, "length of its vectors", POSITIVE)


def _dense(features: int, dtype: Dtype, name: str | None = None) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, precision=precision_of(dtype), name=name)


class Blocks(nn.Module):
    """Pre-norm transformer blocks, then a LayerNorm."""

    layers: int
    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        for number in range(self.layers):
            y = nn.LayerNorm(name=f"block_{number}_norm_1")(x)
            x = x + SelfAttention(self.heads, self.dtype, name=f"block_{number}_attention")(y)
            y = nn.LayerNorm(name=f"block_{number}_norm_2")(x)
            y = _dense(4 * x.shape[-1], self.dtype, f"block_{number}_in")(y)
            y = _dense(x.shape[-1], self.dtype, f"block_{number}_out")(nn.gelu(y))
            x = x + y
        return nn.LayerNorm(name="norm")(x)


class TiTokNetwork(nn.Module):
    """Encoder and decoder; the codebook stands outside.

    Attributes:
      tokens, patch, hidden, layers, heads, width: see `Options`.
      grid: patches a side.
      dtype: type of matrix products.
    """

    tokens: int
    patch: int
    hidden: int
    layers: int
    heads: int
    width: int
    grid: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        square = (self.patch, self.patch)
        self.patches = nn.Conv(
            self.hidden,
            square,
            square,
            padding="VALID",
            dtype=self.dtype,
            precision=precision_of(self.dtype),
        )
        self.encoder = Blocks(self.layers, self.heads, self.dtype)
        self.decoder = Blocks(self.layers, self.heads, self.dtype)
        self.to_codes = _dense(self.width, self.dtype)
        self.from_codes = _dense(self.hidden, self.dtype)
        self.conv_out = PatchesToPixels(self.patch, self.dtype)
        places, tokens = (self.grid**2, self.hidden), (self.tokens, self.hidden)
        self.encoder_places = self.param("encoder_places", _normal, places)
        self.encoder_latents = self.param("encoder_latents", _normal, tokens)
        self.decoder_places = self.param("decoder_places", _normal, places)
        self.decoder_latents = self.param("decoder_latents", _normal, tokens)

    def __call__(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """All layers, without a quantizer: for `init`."""
        return self.to_image(self.decode_features(self.features(image)))

    def features(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b 1 tokens d"]:
        """What the quantizer sees: the latent tokens behind the encoder, float32."""
        patches = self.patches(image).reshape(len(image), -1, self.hidden) + self.encoder_places
        latents = jnp.broadcast_to(self.encoder_latents, (len(image), self.tokens, self.hidden))
        mixed = self.encoder(jnp.concatenate([patches, latents], axis=1))
        return self.to_codes(mixed[:, None, -self.tokens :]).astype(jnp.float32)

    def decode_features(self, vectors: Float[Array, "b 1 n width"]) -> Float[Array, "b h w d"]:
        """Input of the last layer; a patch begins as its place alone."""
        latents = self.from_codes(vectors[:, 0]) + self.decoder_latents
        shape = (len(vectors), self.grid**2, self.hidden)
        patches = jnp.broadcast_to(self.decoder_places, shape)
        mixed = self.decoder(jnp.concatenate([patches, latents], axis=1))
        return mixed[:, : self.grid**2].reshape(-1, self.grid, self.grid, self.hidden)

    def to_image(self, last_features: Float[Array, "b h w d"]) -> Float[Array, "b height width 3"]:
        """The last layer; float32."""
        return self.conv_out(last_features).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class TiTok(VisualTokenizer):
    """Transformers around a codebook of unit vectors, the parameter "codebook".

    Attributes:
      network: the Flax module.
      quantizer: the codebook.
      quantizer_weight: weight of its loss.
      mesh: devices that share the search for the nearest entry.
    """

    network: TiTokNetwork
    quantizer: UnitCodebook
    quantizer_weight: float = 1.0
    mesh: Mesh | None = None

    encoder_parameters = "^(encoder|patches|to_codes|codebook)"
    counted_streams = ("latent",)
    codebooks = property(lambda self: {"latent": self.quantizer.entries})
    dtype = property(lambda self: self.network.dtype)
    loss_weights = property(lambda self: {"quantizer_loss": self.quantizer_weight})

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters of network and codebook."""
        params = dict(self.network.init(key, batch["image"])["params"])
        return {"params": params | self.quantizer.init(jax.random.fold_in(key, 1))}

    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Encodes, quantizes and decodes."""
        del step, key
        features = self._apply(variables, "features", batch["image"])
        quantized = self.quantizer.quantize(variables, features, self.mesh)
        last = self._apply(variables, "decode_features", quantized.vectors)
        losses = {"quantizer_loss": quantized.loss}
        image = self.to_image(variables, last)
        return TrainOutput(image, last, losses, {"latent": quantized.ids[:, 0]})

    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """The latent tokens' entries."""
        features = self._apply(variables, "features", batch["image"])
        return {"latent": self.quantizer.ids(variables, features, self.mesh)[:, 0]}

    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images from entries."""
        vectors = self.quantizer.vectors(variables, tokens["latent"][:, None])
        return self.to_image(variables, self._apply(variables, "decode_features", vectors))

    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w d"]
    ) -> Float[Array, "b height width 3"]:
        """The last layer."""
        return self._apply(variables, "to_image", last_features)

    def on_mesh(self, mesh: Mesh | None) -> "TiTok":
        """The search for the nearest entry, shared by a mesh's devices."""
        return dataclasses.replace(self, mesh=mesh)

    def with_dtype(self, dtype: Dtype) -> "TiTok":
        """The same network with other matrix products."""
        return dataclasses.replace(self, network=self.network.clone(dtype=dtype))

    def _apply(self, variables: Variables, method: str, *inputs: Any) -> Any:
        own = {name: x for name, x in variables["params"].items() if name != "codebook"}
        return self.network.apply({"params": own}, *inputs, method=method)


def check(model: Any) -> None:
    """Raises ConfigError where images do not divide into patches, or the width into heads."""
    c = model.titok
    if model.image_size % c.patch:
        raise ConfigError(
            f"config.model.titok.patch is {c.patch}, but must divide image_size, {model.image_size}"
        )
    if c.hidden % c.heads:
        raise ConfigError(f"config.model.titok.heads is {c.heads}, but must divide {c.hidden}")


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> TiTok:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    del words
    c, grid = model.titok, model.image_size // model.titok.patch
    sizes = (c.tokens, c.patch, c.hidden, c.layers, c.heads, c.width, grid)
    codebook = UnitCodebook(rows=c.rows, width=c.width)
    return TiTok(TiTokNetwork(*sizes, dtype), codebook, train.weight_quantizer)
