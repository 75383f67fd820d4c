"""V2L (Zhu et al. 2024, "Beyond Text") as a visual tokenizer: token streams "global" (what an image
shows) and "local" (how it looks), both rows of frozen codebooks of an LLM's words.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, Variables, VisualTokenizer
from v2l_jax.tokenizers.projector_upkeep import ProjectorUpkeep
from v2l_jax.tokenizers.v2l_network import ImageTokens, V2LTokenizer

WORDS = ("local", "global")


@dataclasses.dataclass(frozen=True)
class V2L(VisualTokenizer):
    """The network of the paper, what its losses weigh, and how its projector is kept near the
    features.

    Batches have "image_embedding": embeddings [b, word_dim] in the space of the global words, or
    the semantic tower's input images [b, s, s, 3].

    Attributes:
      network: the Flax module.
      global_tokens: global words an image gets.
      quantizer_weight: weight of the vector-quantization loss.
      entropy_weight: weight of the codebook's entropy regulariser (`tokenizers.entropy`).
      entropy_temperature: of that regulariser's soft assignments, in squared distance between unit
        vectors.
      upkeep: when the projector is moved to the encoder's features; never by default, as in the
        published code.
    """

    network: V2LTokenizer
    global_tokens: int = 21
    quantizer_weight: float = 1.0
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    upkeep: ProjectorUpkeep = ProjectorUpkeep()

    encoder_parameters = "^(encoder|to_words|projector)"

    @property
    def codebooks(self) -> Mapping[str, int]:
        """Words of the global and the local codebook."""
        return {"global": self.network.num_global_words, "local": self.network.num_local_words}

    @property
    def decoded_streams(self) -> tuple[str, ...]:
        """Without cross-attention, the local words alone."""
        return ("global", "local") if self.network.cross_attention_heads else ("local",)

    @property
    def word_streams(self) -> Mapping[str, str]:
        """Both streams are words."""
        return {"global": "global", "local": "local"}

    @property
    def dtype(self) -> Dtype:
        """Type of convolutions and matrix products."""
        return self.network.dtype

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """quantizer_loss and, where it has a weight, entropy_loss."""
        entropy = {"entropy_loss": self.entropy_weight} if self.entropy_weight else {}
        return {"quantizer_loss": self.quantizer_weight} | entropy

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The word vectors."""
        return {"local_words": words["local"], "global_words": words["global"]}

    def input_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Images, and embeddings of them."""
        return super().input_shapes(image_size) | {"image_embedding": (self.network.word_dim,)}

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Parameters and, where unused words are revived, the memory of those in use: none yet."""
        inputs = (batch["image"], batch["image_embedding"], self.global_tokens)
        variables = {"params": self.network.init(key, *inputs)["params"]}
        if self.upkeep.revive_every:
            variables["memory"] = jnp.zeros(self.network.num_local_words, bool)
        return variables

    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Chooses the global words, then encodes, quantizes and decodes."""
        del step, key
        inputs = (batch["image"], batch["image_embedding"], self.global_tokens)
        result = self._apply(variables, None, *inputs)
        losses = {"quantizer_loss": result.quantizer_loss}
        if self.entropy_weight:
            losses["entropy_loss"] = self._apply(
                variables, "entropy_loss", result.features, self.entropy_temperature
            )
        return TrainOutput(result.image, result.last_features, losses, _streams(result.tokens))

    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """Global words, nearest first, and local words in raster order."""
        inputs = (batch["image"], batch["image_embedding"], self.global_tokens)
        return _streams(self._apply(variables, "tokenize", *inputs))

    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images from words."""
        ids = ImageTokens(global_ids=tokens["global"], local_ids=tokens["local"])
        return self._apply(variables, "decode", ids)

    def reconstruct(
        self, variables: Variables, batch: Batch
    ) -> tuple[Float[Array, "b h w 3"], TokenStreams]:
        """The training pass's image, from straight-through vectors as in the published
        evaluation.
        """
        inputs = (batch["image"], batch["image_embedding"], self.global_tokens)
        result = self._apply(variables, None, *inputs)
        return result.image, _streams(result.tokens)

    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w 3"]:
        """The last convolution."""
        return self._apply(variables, "to_image", last_features)

    def on_mesh(self, mesh: Mesh | None) -> "V2L":
        """The search for local words, shared by a mesh's devices."""
        return dataclasses.replace(self, network=self.network.clone(mesh=mesh))

    def with_dtype(self, dtype: Dtype) -> "V2L":
        """The same network with other matrix products."""
        return dataclasses.replace(self, network=self.network.clone(dtype=dtype))

    def after_update(
        self,
        variables: Variables,
        batch: Batch,
        tokens: TokenStreams,
        step: jax.Array,
        parts: int = 1,
    ) -> Variables:
        """Moves the projector where `upkeep` says that it is due, and remembers the words in
        use.
        """
        used = variables.get("memory")
        if used is not None:
            used = used | (self.used_entries(tokens) > 0)
        network = {name: variables[name] for name in ("params", "frozen")}
        encode = lambda image: self._apply(network, "encode", image)
        words = variables["frozen"]["local_words"]
        projector, used = self.upkeep.apply(
            variables["params"]["projector"], used, words, step, encode, batch["image"], parts
        )
        changed = {"params": variables["params"] | {"projector": projector}}
        return variables | changed | ({} if used is None else {"memory": used})

    def pretrained(self, path: str, codebooks: Mapping[str, Codebook]) -> dict[str, Any]:
        """The parameters of a released tokenizer of the same local words and sizes."""
        from v2l_jax.tokenizers.released import load_tokenizer

        released = load_tokenizer(path)
        released.check_words(codebooks["local"])
        released.check_sizes(self.network)
        return released.variables["params"]

    def save(
        self, folder: pathlib.Path, params: Any, codebooks: Mapping[str, Codebook], **described: Any
    ) -> None:
        """The files of `tokenizers.released`."""
        from v2l_jax.tokenizers.released import save_tokenizer

        books = codebooks["local"], codebooks["global"]
        described["global_tokens"] = self.global_tokens
        save_tokenizer(folder, self.network, params, *books, **described)

    def _apply(self, variables: Variables, method: str | None, *inputs: Any) -> Any:
        given = {name: variables[name] for name in ("params", "frozen") if name in variables}
        return self.network.apply(given, *inputs, method=method)


def _streams(tokens: ImageTokens) -> TokenStreams:
    return {"global": tokens.global_ids, "local": tokens.local_ids}


def make(model: Any, train: Any, words: Mapping[str, Any], dtype: Dtype) -> V2L:
    """The tokenizer of `config.model` and `config.train`; see `tokenizers.base`."""
    network = V2LTokenizer(
        channels=model.channels,
        channel_multipliers=tuple(model.channel_multipliers),
        num_res_blocks=model.num_res_blocks,
        z_channels=model.z_channels,
        attn_resolutions=tuple(model.attn_resolutions),
        resolution=model.resolution,
        word_dim=words["local"].shape[1],
        num_local_words=len(words["local"]),
        num_global_words=len(words["global"]),
        cross_attention_heads=model.cross_attention_heads,
        dtype=dtype,
    )
    upkeep = ProjectorUpkeep(
        train.projector_fit_every,
        train.projector_fit_until,
        train.projector_recenter_every,
        train.projector_revive_every,
    )
    return V2L(
        network,
        model.global_tokens,
        train.weight_quantizer,
        train.weight_entropy,
        train.entropy_temperature,
        upkeep,
    )
