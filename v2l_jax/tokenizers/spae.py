"""SPAE (Yu et al. 2023, "Semantic pyramid autoencoder"): an image becomes a pyramid of words, of
which the upper layers say what it shows and all together how it looks.

The authors' code was never published. What follows is the paper as recalled; checked against it are
the token counts (1, 5, 21, 85, 341, 597, and 853 and 1,109 with two more layers) and the form of
the relative score. The image losses are the trainer's: L1 where the paper has a squared error, and
no LeCAM regulariser.

Token streams "layer_1", "layer_2", … [b, h_l, w_l], all ids of the run's local codebook, whose
vectors stay frozen. The decoder takes any first layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.errors import ConfigError
from v2l_jax.options import FLAG, POSITIVE, SHARE, WEIGHT, each, option
from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, Variables, VisualTokenizer
from v2l_jax.tokenizers.quantizers.base import straight_through
from v2l_jax.tokenizers.quantizers.pyramid import Layer, map_of_tokens, quantize_layers
from v2l_jax.tokenizers.vqgan import VQGANNetwork, network_of

WORDS = ("local", "candidates")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of SPAE; the defaults are the paper's six layers at 16×16."""

    sides: tuple[int, ...] = option(
        (1, 2, 4, 8, 16, 16),
        "tokens a side of each layer; each divides the last, which is the feature map's. Two more "
        "16 make 1,109 tokens",
        each(POSITIVE, least=1),
    )
    residual: bool = option(
        False, "plain residual quantization instead of the streaming average (the ablation)", FLAG
    )
    commitment: float = option(
        0.33, "of the loss that moves features to what each layer has of them", WEIGHT
    )
    semantic: float = option(
        1.0, "of the semantic loss, which is first scaled to the image's loss; 0 = none", WEIGHT
    )
    thresholds: tuple[float, ...] = option(
        (0.98, 0.95, 0.9, 0.85, 0.8),
        "of a word's relative score, from which on it is a target of the semantic loss; one for "
        "each of the first layers",
        each(SHARE, least=1),
    )


@dataclasses.dataclass(frozen=True)
class SPAE(VisualTokenizer):
    """VQ-GAN's network around a pyramid of frozen words.

    Batches have "image_embedding" [b, tower_dim] where there is a semantic loss. "frozen" has
    "local_words" [words, d], what features are quantized to, and "local_tower_words" [words,
    tower_dim], the same words' vectors in the tower that looks at images.

    Attributes:
      network: the Flax module.
      words: entries of the codebook.
      tower_dim: length of the tower's vectors.
      others: see `Options`.
      mesh: devices that share the search for the nearest word.
    """

    network: VQGANNetwork
    words: int
    tower_dim: int
    sides: tuple[int, ...] = (1, 2, 4, 8, 16, 16)
    residual: bool = False
    commitment: float = 0.33
    semantic: float = 1.0
    thresholds: tuple[float, ...] = (0.98, 0.95, 0.9, 0.85, 0.8)
    mesh: Mesh | None = None

    encoder_parameters = "^(encoder|to_codes)"

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the layers, first layer first."""
        return tuple(f"layer_{number}" for number in range(1, len(self.sides) + 1))

    @property
    def counted_streams(self) -> tuple[str, ...]:
        """All layers use one codebook."""
        return self.streams

    @property
    def codebooks(self) -> Mapping[str, int]:
        """The same words in all layers."""
        return dict.fromkeys(self.streams, self.words)

    @property
    def word_streams(self) -> Mapping[str, str]:
        """The local words in all layers."""
        return dict.fromkeys(self.streams, "local")

    @property
    def dtype(self) -> Dtype:
        """Type of convolutions and matrix products."""
        return self.network.dtype

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """commitment_loss and, where it has a weight, semantic_loss."""
        semantic = {"semantic_loss": self.semantic} if self.semantic else {}
        return {"commitment_loss": self.commitment} | semantic

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The words' vectors, and the tower's of the same words: candidates begin with them."""
        tower = words["candidates"]
        if isinstance(tower, jax.ShapeDtypeStruct):
            tower = jax.ShapeDtypeStruct((self.words, self.tower_dim), tower.dtype)
        else:
            tower = tower[: self.words]
        return {"local_words": words["local"], "local_tower_words": tower}

    def input_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Images, and embeddings of them where there is a semantic loss."""
        tower = {"image_embedding": (self.tower_dim,)} if self.semantic else {}
        return super().input_shapes(image_size) | tower

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters of the network; nothing else trains."""
        return {"params": self.network.init(key, batch["image"])["params"]}

    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Encodes, quantizes layer by layer, and decodes what all layers have together."""
        del step
        features = self._apply(variables, "features", batch["image"])
        layers = self._layers(variables, features)
        last = self._apply(
            variables, "decode_features", straight_through(features, layers[-1].so_far)
        )
        image = self.to_image(variables, last)
        losses = {"commitment_loss": commitment_loss(features, layers)}
        if self.semantic:
            frozen = variables["frozen"]
            scores = relative_scores(batch["image_embedding"], frozen["local_tower_words"])
            semantic = semantic_loss(key, layers, scores, frozen["local_words"], self.thresholds)
            appearance = jnp.mean(jnp.abs(image - batch["image"]))
            appearance += self.commitment * losses["commitment_loss"]
            scale = jax.lax.stop_gradient(appearance / jnp.maximum(semantic, 1e-6))
            losses["semantic_loss"] = scale * semantic
        return TrainOutput(image, last, losses, self._streams(layers))

    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """The words of each layer."""
        features = self._apply(variables, "features", batch["image"])
        return self._streams(self._layers(variables, features))

    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images from the first layers: those that `tokens` has.

        Raises:
          KeyError: a layer is missing before one that is there.
        """
        ids = [tokens[name] for name in self.streams[: len(tokens)]]
        table = variables["frozen"]["local_words"]
        mapped = map_of_tokens(ids, table, self.sides[-1], self.residual)
        return self.to_image(variables, self._apply(variables, "decode_features", mapped))

    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w 3"]:
        """The last convolution."""
        return self._apply(variables, "to_image", last_features)

    def on_mesh(self, mesh: Mesh | None) -> "SPAE":
        """The search for the nearest word, shared by a mesh's devices."""
        return dataclasses.replace(self, mesh=mesh)

    def with_dtype(self, dtype: Dtype) -> "SPAE":
        """The same network with other matrix products."""
        return dataclasses.replace(self, network=self.network.clone(dtype=dtype))

    def _layers(self, variables: Variables, features: Float[Array, "b h w d"]) -> list[Layer]:
        table = variables["frozen"]["local_words"]
        return quantize_layers(features, table, self.sides, self.residual, self.mesh)

    def _streams(self, layers: list[Layer]) -> TokenStreams:
        return {name: layer.ids for name, layer in zip(self.streams, layers, strict=True)}

    def _apply(self, variables: Variables, method: str, *inputs: Any) -> Any:
        return self.network.apply({"params": variables["params"]}, *inputs, method=method)


def commitment_loss(features: Float[Array, "b h w d"], layers: list[Layer]) -> Float[Array, ""]:
    """Σ over layers of mean((z − sg(map so far))²), over the positions that have a token yet."""
    total = jnp.zeros(())
    for layer in layers:
        apart = (features - jax.lax.stop_gradient(layer.so_far)) ** 2
        total += jnp.mean(apart * layer.covered[..., None]) / layer.covered.mean()
    return total


def relative_scores(
    images: Float[Array, "b t"], words: Float[Array, "word t"]
) -> Float[Array, "b word"]:
    """Inner products of the tower's vectors, 0 for the worst word of the codebook and 1 for the
    best, for each image (the paper's equation 6).
    """
    products = jnp.matmul(images, words.T, precision=jax.lax.Precision.HIGHEST)
    worst, best = products.min(-1, keepdims=True), products.max(-1, keepdims=True)
    return (products - worst) / jnp.maximum(best - worst, 1e-12)


def semantic_loss(
    key: jax.Array,
    layers: list[Layer],
    scores: Float[Array, "b word"],
    table: Float[Array, "word d"],
    thresholds: tuple[float, ...],
) -> Float[Array, ""]:
    """Mean over layers and positions of −log softmax_k(−‖z_l − e(k)‖²)[c], c drawn evenly from the
    words whose relative score reaches the layer's threshold.

    Args:
      key: PRNG key of the draws.
      layers: of `quantize_layers`; the first count, one for each threshold.
      scores: from `relative_scores`.
      table: e.
      thresholds: of each layer; the best word always reaches it.
    """
    losses, norms = [], jnp.sum(table**2, axis=-1)
    for number, (layer, threshold) in enumerate(zip(layers, thresholds)):
        seen = layer.seen.reshape(len(scores), -1, table.shape[1])
        allowed = scores >= jnp.minimum(threshold, scores.max(-1, keepdims=True))
        target = draw(jax.random.fold_in(key, number), allowed, seen.shape[1])
        products = jnp.einsum("bpd,kd->bpk", seen, table, precision=jax.lax.Precision.HIGHEST)
        shares = jax.nn.log_softmax(2.0 * products - norms)  # ‖z‖² is the same for all words
        losses.append(-jnp.mean(jnp.take_along_axis(shares, target[..., None], axis=-1)))
    return jnp.mean(jnp.stack(losses))


def draw(key: jax.Array, allowed: Any, count: int) -> Int[Array, "b count"]:
    """`count` words for each row, evenly among those allowed."""
    many = jnp.sum(allowed, axis=-1, keepdims=True)
    place = jax.random.randint(key, (len(allowed), count), 0, many)  # so many allowed ones before
    before = jnp.cumsum(allowed, axis=-1)
    return jax.vmap(lambda rows, at: jnp.searchsorted(rows, at, side="right"))(before, place)


def check(model: Any) -> None:
    """Raises ConfigError where the pyramid does not fit the images, or has too few layers."""
    c, side = model.spae, model.image_size >> (len(model.channel_multipliers) - 1)
    if c.sides[-1] != side or any(side % here for here in c.sides):
        raise ConfigError(
            f"config.model.spae.sides is {tuple(c.sides)}, but each must divide the last, and that "
            f"be {side}: image_size {model.image_size}, halved "
            f"{len(model.channel_multipliers) - 1} times"
        )
    if len(c.thresholds) > len(c.sides):
        raise ConfigError(
            f"config.model.spae.thresholds has {len(c.thresholds)} entries for {len(c.sides)} "
            "layers"
        )


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> SPAE:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    del train
    c, (rows, width) = model.spae, words["local"].shape
    return SPAE(
        network_of(model, width, dtype),
        rows,
        words["candidates"].shape[1],
        tuple(c.sides),
        c.residual,
        c.commitment,
        c.semantic,
        tuple(c.thresholds),
    )
