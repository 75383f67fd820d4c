"""What a quantizer offers, and what several of them share."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.nearest import nearest_row
from v2l_jax.tokenizers.quantizer import Quantized

Variables = Mapping[str, Any]
"""Collections "params" and "frozen" of the tokenizer; a quantizer finds there what its `init` and
`frozen` made, under the same names.
"""


@dataclasses.dataclass(frozen=True)
class Quantizer(abc.ABC):
    """How features become ids of codebook entries, and these vectors; its fields are its
    options.
    """

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length of the feature vectors that it takes."""

    @property
    @abc.abstractmethod
    def entries(self) -> int:
        """All ids are below it."""

    @property
    def choices(self) -> int:
        """Different values that one id can have: all entries, unless several codebooks are one
        behind the other.
        """
        return self.entries

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Its parameters, with names that begin with "codebook"; none by default."""
        del key
        return {}

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Its arrays that never train; none by default.

        Args:
          words: vectors of the codebooks in the tokenizer's WORDS.
        """
        del words
        return {}

    @abc.abstractmethod
    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w *ids"]:
        """The entries that features become; one or several a position.

        Args:
          variables: see `Variables`.
          features: float32.
          mesh: devices that share a search.
        """

    @abc.abstractmethod
    def vectors(
        self, variables: Variables, ids: Int[Array, "b h w *ids"]
    ) -> Float[Array, "b h w d"]:
        """What the decoder reads for ids."""

    @abc.abstractmethod
    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Vectors with a gradient to the features, ids, and the quantizer's whole loss."""

    def read(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> tuple[Float[Array, "b h w d"], Int[Array, "b h w *ids"]]:
        """What the decoder reads of features outside training, and the ids that say it."""
        ids = self.ids(variables, features, mesh)
        return self.vectors(variables, ids), ids


def nearest_ids(
    features: Float[Array, "*position d"], rows: Float[Array, "row d"], mesh: Mesh | None = None
) -> Int[Array, "*position"]:
    """The row nearest to each feature by Euclidean distance."""
    flat = features.reshape(-1, features.shape[-1])
    return nearest_row(flat, rows, mesh=mesh).reshape(features.shape[:-1])


def pull_together(
    features: Float[Array, "*shape"],
    vectors: Float[Array, "*shape"],
    commitment: float,
    codebook: float,
) -> Float[Array, ""]:
    """commitment · mean((features − sg(vectors))²) + codebook · mean((sg(features) − vectors)²)."""
    stop = jax.lax.stop_gradient
    to_features = jnp.mean((features - stop(vectors)) ** 2)
    return commitment * to_features + codebook * jnp.mean((stop(features) - vectors) ** 2)


def straight_through(
    features: Float[Array, "*shape"], vectors: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The vectors, with the gradient of the features."""
    return features + jax.lax.stop_gradient(vectors - features)
