"""The V2L tokenizer (Zhu et al. 2024, "Beyond Text"): an image becomes words of a language model,
and back.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.nearest import in_latent_space, nearest_row, nearest_rows
from v2l_jax.ops.unit_vectors import reciprocal_lengths, unit_vectors
from v2l_jax.tokenizers.autoencoder import Decoder, Encoder, attention_levels, conv3x3, dense
from v2l_jax.tokenizers.entropy import entropy_loss
from v2l_jax.tokenizers.quantizer import quantize


@struct.dataclass
class ImageTokens:
    """An image as words.

    Attributes:
      global_ids: int32 [batch, k], rows of the global codebook, nearest first: what the image
        shows.
      local_ids: int32 [batch, h, w], rows of the local codebook: how it looks, in raster order.
    """

    global_ids: Int[Any, "batch k"]
    local_ids: Int[Any, "batch h w"]


@struct.dataclass
class Reconstruction:
    """What a training forward pass gives.

    Attributes:
      image: float32 [batch, height, width, 3], about [-1, 1], not clipped.
      features: float32 [batch, h, w, d], unit vectors, what the local quantizer saw.
      last_features: [batch, height, width, channels], the input of the last convolution.
      quantizer_loss: float32 scalar.
      tokens: the words.
    """

    image: Float[Any, "batch height width 3"]
    features: Float[Any, "batch h w d"]
    last_features: Float[Any, "batch height width c"]
    quantizer_loss: Float[Any, ""]
    tokens: ImageTokens


class V2LTokenizer(nn.Module):
    """Encoder, two quantizers over frozen word vectors, and decoder.

    Variables: "params" trains; "frozen" holds what never does: local_words [num_local_words,
    word_dim], global_words [num_global_words, word_dim] and, with a `semantic_tower`, that tower's
    parameters under "tower".

    Attributes:
      channels: width of the autoencoder's first level.
      channel_multipliers: width of each level over `channels`; the side shrinks by 2 between
        levels.
      num_res_blocks: residual blocks a level in the encoder; the decoder has one more.
      z_channels: width of the feature map between autoencoder and quantizer.
      attn_resolutions: resolutions at which self-attention follows each residual block, counted
        from `resolution`.
      resolution: nominal side that places attention; images may have any side that `downsampling`
        divides.
      word_dim: length of word vectors.
      num_local_words: rows of the local codebook.
      num_global_words: rows of the global codebook.
      cross_attention_heads: heads of the decoder's attention to the global words; 0 is a decoder
        that sees none of them.
      codebook_weight: weight of the quantizer loss's term that moves the projector.
      block_size: local words compared at a time.
      mesh: devices that share the search for local words (see `nearest_row`); None searches where
        the features are.
      semantic_tower: `(tower_params, images [b, s, s, 3]) -> embeddings [b, word_dim]`; None where
        those are given.
      dtype: type of convolutions and matrix products; features in word space, normalization,
        distances and losses are float32.
    """

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    word_dim: int = 768
    num_local_words: int = 32_000
    num_global_words: int = 11_908
    cross_attention_heads: int = 8
    codebook_weight: float = 0.33
    block_size: int = 8192
    mesh: Mesh | None = None
    semantic_tower: Callable[[Any, jax.Array], jax.Array] | None = None
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        attention = attention_levels(
            self.channel_multipliers, self.attn_resolutions, self.resolution
        )
        shape = (self.channels, self.channel_multipliers, self.num_res_blocks)
        self.encoder = Encoder(*shape, self.z_channels, attention, self.dtype)
        self.decoder = Decoder(*shape, attention, self.cross_attention_heads, self.dtype)
        self.conv_out = conv3x3(3, self.dtype)
        # float32 in every type: words are chosen by the latents in word space (`local_ids`), and
        # the features that the losses see must be those very vectors.
        self.to_words = dense(self.word_dim, jnp.float32)
        self.from_words = dense(self.z_channels, self.dtype)
        self.projector = nn.Dense(
            self.word_dim,
            kernel_init=nn.initializers.normal(self.word_dim**-0.5),
            precision=jax.lax.Precision.HIGHEST,
        )
        self.local_words = self.variable(
            "frozen", "local_words", jnp.zeros, (self.num_local_words, self.word_dim)
        )
        self.global_words = self.variable(
            "frozen", "global_words", jnp.zeros, (self.num_global_words, self.word_dim)
        )

    @property
    def downsampling(self) -> int:
        """Pixels a side of the square that one local word stands for."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        image_embedding: Float[Array, "batch *_"],
        k: int,
    ) -> Reconstruction:
        """Chooses the global words, then `reconstruct`s.

        Args:
          image: float32 in [-1, 1].
          image_embedding: embeddings [batch, word_dim], or the semantic tower's input images
            [batch, s, s, 3].
          k: global words an image gets.
        """
        return self.reconstruct(image, self.global_ids(image_embedding, k))

    def reconstruct(
        self, image: Float[Array, "batch height width 3"], global_ids: Int[Array, "batch k"]
    ) -> Reconstruction:
        """Encodes, quantizes and decodes, keeping what the losses need; `image` in [-1, 1]."""
        latents = self.latents(image)
        features = self.features(latents)
        ids = self.local_ids(latents)
        quantized = quantize(features, ids, self.local_vectors(ids), self.codebook_weight)
        last_features = self.decode_features(quantized.vectors, global_ids)
        return Reconstruction(
            image=self.to_image(last_features),
            features=features,
            last_features=last_features,
            quantizer_loss=quantized.loss,
            tokens=ImageTokens(global_ids=global_ids, local_ids=quantized.ids),
        )

    def latents(self, image: Float[Array, "batch height width 3"]) -> Float[Array, "batch h w z"]:
        """The encoder's output; `image` in [-1, 1]."""
        return self.encoder(image)

    def features(self, latents: Float[Array, "batch h w z"]) -> Float[Array, "batch h w d"]:
        """Unit vectors in word space, float32."""
        features = self.to_words(latents)
        return features * reciprocal_lengths(features)

    def encode(self, image: Float[Array, "batch height width 3"]) -> Float[Array, "batch h w d"]:
        """`features` of the `latents` of images in [-1, 1]."""
        return self.features(self.latents(image))

    def local_ids(self, latents: Float[Array, "batch h w z"]) -> Int[Array, "batch h w"]:
        """The projected local word nearest to the features of each latent."""
        words = self.projector(jax.lax.stop_gradient(self.local_words.value))
        scale = reciprocal_lengths(self.to_words(latents)).reshape(-1)
        flat = latents.astype(jnp.float32).reshape(-1, latents.shape[-1])
        to_words = self.to_words.variables["params"]
        features, words, lengths = in_latent_space(
            flat, scale, to_words["kernel"], to_words["bias"], words
        )
        return nearest_row(features, words, self.block_size, self.mesh, lengths).reshape(
            latents.shape[:-1]
        )

    def local_vectors(self, ids: Int[Array, "batch h w"]) -> Float[Array, "batch h w d"]:
        """Projected vectors of local words; the projector gets its gradient here, from the chosen
        words only.
        """
        return self.projector(jax.lax.stop_gradient(self.local_words.value)[ids])

    def entropy_loss(
        self, features: Float[Array, "batch h w d"], temperature: float
    ) -> Float[Array, ""]:
        """How far features are from being sure of their word and all words from being used alike;
        see `tokenizer.entropy`.
        """
        words = self.projector(jax.lax.stop_gradient(self.local_words.value))
        return entropy_loss(features, words, temperature, self.mesh)

    def global_ids(
        self, image_embedding: Float[Array, "batch *_"], k: int
    ) -> Int[Array, "batch k"]:
        """The k global words nearest to each image's embedding; `image_embedding` as in
        `__call__`.
        """
        if image_embedding.ndim == 4:
            if self.semantic_tower is None:
                raise ValueError(
                    "images given for the global words, but the tokenizer has no semantic tower"
                )
            image_embedding = self.semantic_tower(
                self.get_variable("frozen", "tower"), image_embedding
            )
        embeddings = unit_vectors(image_embedding.astype(jnp.float32))
        return nearest_rows(embeddings, self.global_words.value, k)

    def decode_features(
        self, vectors: Float[Array, "batch h w d"], global_ids: Int[Array, "batch k"]
    ) -> Float[Array, "batch height width c"]:
        """Input of the last convolution, from local vectors and global words."""
        if not self.cross_attention_heads:
            return self.decoder(self.from_words(vectors))
        context = jax.lax.stop_gradient(self.global_words.value)[global_ids]
        return self.decoder(self.from_words(vectors), context)

    def to_image(
        self, last_features: Float[Array, "batch height width c"]
    ) -> Float[Array, "batch height width 3"]:
        """The last convolution; float32."""
        return self.conv_out(last_features).astype(jnp.float32)

    def tokenize(
        self,
        image: Float[Array, "batch height width 3"],
        image_embedding: Float[Array, "batch *_"],
        k: int,
    ) -> ImageTokens:
        """Words of images, without decoding; arguments as in `__call__`."""
        return ImageTokens(
            global_ids=self.global_ids(image_embedding, k),
            local_ids=self.local_ids(self.latents(image)),
        )

    def decode(self, tokens: ImageTokens) -> Float[Array, "batch height width 3"]:
        """Images from words, not clipped."""
        return self.to_image(
            self.decode_features(self.local_vectors(tokens.local_ids), tokens.global_ids)
        )


@functools.partial(jax.jit, static_argnames=("model", "k"))
def tokenize(
    model: V2LTokenizer,
    variables: Any,
    image: Float[Array, "batch height width 3"],
    semantic_image: Float[Array, "batch *_"],
    k: int,
) -> ImageTokens:
    """Turns images into words; compiled once per shape.

    Args:
      model: the tokenizer.
      variables: its variables, collections "params" and "frozen".
      image: float32 in [-1, 1], sides divisible by `model.downsampling`.
      semantic_image: what the semantic tower takes, [batch, s, s, 3], or precomputed embeddings
        [batch, word_dim].
      k: global words an image gets.
    """
    return model.apply(variables, image, semantic_image, k, method="tokenize")


@functools.partial(jax.jit, static_argnames="model")
def decode(
    model: V2LTokenizer, variables: Any, tokens: ImageTokens
) -> Float[Array, "batch height width 3"]:
    """Turns words back into images: float32, NHWC, nominally in [-1, 1] but not clipped; compiled
    once per shape.
    """
    return model.apply(variables, tokens, method="decode")
