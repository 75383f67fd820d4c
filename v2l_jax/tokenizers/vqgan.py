"""VQ-GAN (Esser et al. 2021) with a learned codebook or another quantizer: one token stream
"local".

By default the row of Zhu et al. 2024, Table 3: V2L's network without cross-attention, a codebook
that trains, and encoder features that are not normalized. Checkpoints of the published code
(CompVis/taming-transformers) can be read too.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.formats.checked_tensors import fitting_together
from v2l_jax.options import NAME, POSITIVE, WEIGHT, option
from v2l_jax.tokenizers.autoencoder import Decoder, Encoder, attention_levels, conv3x3, dense
from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, Variables, VisualTokenizer
from v2l_jax.tokenizers.quantizers import quantizer
from v2l_jax.tokenizers.quantizers.base import Quantizer
from v2l_jax.tokenizers.quantizers.codebook import PlainCodebook
from v2l_jax.tokenizers.quantizers.words import WordVectors
from v2l_jax.tokenizers.reference import (
    autoencoder_sizes,
    check_shapes,
    parameter_path,
    read_reference,
    reference_params,
)

WORDS = ()


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the learned codebook."""

    entries: int = option(32_000, "entries of the codebook", POSITIVE)
    entry_dim: int = option(256, "length of its vectors", POSITIVE)
    quantizer: str = option(
        "codebook",
        "'codebook': plain, learned, with the options here; or a file of "
        "v2l_jax/tokenizers/quantizers, with those of model.quantizers.<name>",
        NAME,
    )
    codebook_weight: float = option(
        0.33,
        "of the quantizer loss's term that moves the codebook; checkpoints of the published code "
        "were "
        "trained with 0.25",
        WEIGHT,
    )


class VQGANNetwork(nn.Module):
    """Encoder and decoder; the codebook stands outside.

    Attributes: as in `V2LTokenizer`, and
      entry_dim: length of codebook vectors.
    """

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    entry_dim: int = 256
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        attention = attention_levels(
            self.channel_multipliers, self.attn_resolutions, self.resolution
        )
        shape = (self.channels, self.channel_multipliers, self.num_res_blocks)
        self.encoder = Encoder(*shape, self.z_channels, attention, self.dtype)
        self.decoder = Decoder(*shape, attention, dtype=self.dtype)
        self.conv_out = conv3x3(3, self.dtype)
        self.to_codes = dense(self.entry_dim, self.dtype)
        self.from_codes = dense(self.z_channels, self.dtype)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """All layers, without a quantizer: for `init`."""
        return self.to_image(self.decode_features(self.features(image)))

    def features(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w d"]:
        """What the quantizer sees: float32, not normalized."""
        return self.to_codes(self.encoder(image)).astype(jnp.float32)

    def decode_features(self, vectors: Float[Array, "b h w d"]) -> Float[Array, "b height width c"]:
        """Input of the last convolution, from codebook vectors."""
        return self.decoder(self.from_codes(vectors))

    def to_image(
        self, last_features: Float[Array, "b height width c"]
    ) -> Float[Array, "b height width 3"]:
        """The last convolution; float32."""
        return self.conv_out(last_features).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class VQGAN(VisualTokenizer):
    """VQ-GAN around a quantizer, whose parameters stand beside the network's.

    Attributes:
      network: the Flax module.
      quantizer: how features become ids.
      quantizer_weight: weight of the quantizer's loss.
      mesh: devices that share the search for the nearest entry; None searches where features are.
    """

    network: VQGANNetwork
    quantizer: Quantizer
    quantizer_weight: float = 1.0
    mesh: Mesh | None = None

    encoder_parameters = "^(encoder|to_codes|codebook)"

    @property
    def codebooks(self) -> Mapping[str, int]:
        """Entries of the quantizer's codebook."""
        return {"local": self.quantizer.entries}

    @property
    def choices(self) -> Mapping[str, int]:
        """Values that an id can have."""
        return {"local": self.quantizer.choices}

    @property
    def word_streams(self) -> Mapping[str, str]:
        """The local words, where they are the codebook."""
        return {"local": "local"} if isinstance(self.quantizer, WordVectors) else {}

    @property
    def dtype(self) -> Dtype:
        """Type of convolutions and matrix products."""
        return self.network.dtype

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """quantizer_loss."""
        return {"quantizer_loss": self.quantizer_weight}

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """What the quantizer never trains."""
        return self.quantizer.frozen(words)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters of network and quantizer."""
        params = dict(self.network.init(key, batch["image"])["params"])
        return {"params": params | self.quantizer.init(jax.random.fold_in(key, 1))}

    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Encodes, quantizes and decodes."""
        del step, key
        features = self._apply(variables, "features", batch["image"])
        quantized = self.quantizer.quantize(variables, features, self.mesh)
        last_features = self._apply(variables, "decode_features", quantized.vectors)
        image, losses = self.to_image(variables, last_features), {"quantizer_loss": quantized.loss}
        return TrainOutput(image, last_features, losses, {"local": quantized.ids})

    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """Entries in raster order, [b, h, w]; [b, h, w, n] of several codebooks."""
        features = self._apply(variables, "features", batch["image"])
        return {"local": self.quantizer.ids(variables, features, self.mesh)}

    def reconstruct(
        self, variables: Variables, batch: Batch
    ) -> tuple[Float[Array, "b h w 3"], TokenStreams]:
        """What images come back as, and the ids in between."""
        features = self._apply(variables, "features", batch["image"])
        vectors, ids = self.quantizer.read(variables, features, self.mesh)
        last_features = self._apply(variables, "decode_features", vectors)
        return self.to_image(variables, last_features), {"local": ids}

    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images from entries."""
        vectors = self.quantizer.vectors(variables, tokens["local"])
        return self.to_image(variables, self._apply(variables, "decode_features", vectors))

    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w 3"]:
        """The last convolution."""
        return self._apply(variables, "to_image", last_features)

    def on_mesh(self, mesh: Mesh | None) -> "VQGAN":
        """The search for the nearest entry, shared by a mesh's devices."""
        return dataclasses.replace(self, mesh=mesh)

    def with_dtype(self, dtype: Dtype) -> "VQGAN":
        """The same network with other matrix products."""
        return dataclasses.replace(self, network=self.network.clone(dtype=dtype))

    def pretrained(self, path: str, codebooks: Mapping[str, Codebook]) -> dict[str, Any]:
        """The parameters of a checkpoint of the published code, of the same sizes."""
        del codebooks
        if not isinstance(self.quantizer, PlainCodebook):
            raise ConfigError("checkpoints of VQ-GANs are read for model.vqgan.quantizer codebook")
        params = load_taming(path)[1]["params"]
        check_shapes(self._shapes(), params)
        return params

    def _shapes(self) -> dict[str, Any]:
        """Shapes of the parameters."""
        side = 2 ** (len(self.network.channel_multipliers) - 1)
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        init = lambda image: self.init(jax.random.key(0), {"image": image})["params"]
        return jax.eval_shape(init, image)

    def _apply(self, variables: Variables, method: str, *inputs: Any) -> Any:
        return self.network.apply({"params": variables["params"]}, *inputs, method=method)


def network_of(model: Any, entry_dim: int, dtype: Dtype) -> VQGANNetwork:
    """The network of `config.model`."""
    return VQGANNetwork(
        model.channels,
        tuple(model.channel_multipliers),
        model.num_res_blocks,
        model.z_channels,
        tuple(model.attn_resolutions),
        model.resolution,
        entry_dim,
        dtype,
    )


def check(model: Any) -> None:
    """Raises ConfigError where the quantizer that `config.model` names is none."""
    _quantizer(model)


def _quantizer(model: Any) -> Quantizer:
    c = model.vqgan
    if c.quantizer == "codebook":
        return PlainCodebook(c.entries, c.entry_dim, c.codebook_weight)
    return quantizer(model, c.quantizer)


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> VQGAN:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    del words
    chosen = _quantizer(model)
    return VQGAN(network_of(model, chosen.dim, dtype), chosen, train.weight_quantizer)


def load_taming(path: str | pathlib.Path) -> tuple[VQGAN, Variables]:
    """Reads a checkpoint of CompVis/taming-transformers, or of those who train with its classes
    (Chameleon, Anole, latent diffusion's VQ models); every size is inferred from the arrays.

    Args:
      path: a PyTorch(-Lightning) file, `{"state_dict": {name: tensor}}` or the names themselves, or
        a .safetensors file; read without executing anything.

    Returns:
      The tokenizer, with the codebook weight of published training, 0.25, and its "params".

    Raises:
      CheckpointError: the file lacks an array, has one that no VQ-GAN has, or arrays do not fit
        together.
    """
    path = pathlib.Path(path)
    return vqgan_from_taming(read_reference(path), str(path))


def vqgan_from_taming(
    arrays: Mapping[str, np.ndarray], name: str = "the checkpoint"
) -> tuple[VQGAN, Variables]:
    """Builds the tokenizer from published names and PyTorch layouts; see `load_taming`.

    Args:
      arrays: by name, with or without "model.vqmodel." and the like before each. What lies under
        "loss." (LPIPS, the discriminator) and "model_ema." is left out, and counted in the log.
      name: what errors call them.
    """
    arrays = _without_prefix(arrays)
    known = {key: x for key, x in arrays.items() if not key.startswith(_LEFT_OUT)}
    if len(known) < len(arrays):
        logging.info("%s: %d arrays left out (losses, averages)", name, len(arrays) - len(known))
    unknown = [key for key in known if parameter_path(key) is None and key != _CODEBOOK]
    if unknown:
        raise CheckpointError(
            f"{name} is no VQ-GAN with a plain codebook: {len(unknown)} of its arrays have no "
            f"place there, first {unknown[0]}"
        )
    with fitting_together(name, "a VQ-GAN checkpoint"):
        codebook = np.asarray(known[_CODEBOOK], np.float32)
        _ = known["decoder.conv_in.weight"]  # some files hold the encoder alone
        network = VQGANNetwork(**autoencoder_sizes(known), entry_dim=codebook.shape[1])
        params = reference_params(known)
        params["to_codes"], params["from_codes"] = (
            params.pop(part, {}) for part in ("to_words", "from_words")
        )
        tokenizer = VQGAN(network, PlainCodebook(*codebook.shape, codebook_weight=0.25))
        params["codebook"] = codebook
        check_shapes(tokenizer._shapes(), params)
    return tokenizer, {"params": params}


_CODEBOOK = "quantize.embedding.weight"
_LEFT_OUT = ("loss.", "model_ema.")


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the model that owns the codebook, by their names inside it."""
    owner = next((key for key in arrays if key.endswith(_CODEBOOK)), _CODEBOOK)
    prefix = owner.removesuffix(_CODEBOOK)
    return {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}
