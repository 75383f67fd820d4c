"""Frozen word vectors as a codebook, as they are or behind a learned map (Zhu et al. 2024, V2L's
local codebook and its ablations).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.unit_vectors import reciprocal_lengths
from v2l_jax.tokenizers.quantizer import Quantized, quantize
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, nearest_ids


@dataclasses.dataclass(frozen=True)
class WordVectors(Quantizer):
    """The nearest row of the frozen array "local_words" [rows, width].

    Attributes:
      rows: words.
      width: length of their vectors.
      normalize: divide features by their length before they are compared.
      projected: compare with words·kernel + bias, "codebook_map", which trains.
      tuned: the vectors themselves train, as the sum of the frozen ones and "codebook_change".
      codebook_weight: of the loss's term that moves what trains.
    """

    rows: int
    width: int
    normalize: bool = False
    projected: bool = False
    tuned: bool = False
    codebook_weight: float = 0.33

    dim = property(lambda self: self.width)
    entries = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """The map of V2L's projector, normal with standard deviation width^-½; no change."""
        made: dict[str, Any] = {}
        if self.projected:
            kernel = jax.random.normal(key, (self.width,) * 2) * self.width**-0.5
            made["codebook_map"] = {"kernel": kernel, "bias": jnp.zeros(self.width)}
        if self.tuned:
            made["codebook_change"] = jnp.zeros((self.rows, self.width))
        return made

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The word vectors."""
        return {"local_words": words["local"]}

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """The nearest words."""
        return nearest_ids(self._scaled(features), self._table(variables, ...), mesh)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Their vectors."""
        return self._table(variables, ids)

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Straight-through; the commitment term has weight 1."""
        ids = self.ids(variables, features, mesh)
        vectors = self.vectors(variables, ids)
        return quantize(self._scaled(features), ids, vectors, self.codebook_weight)

    def _scaled(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        return features * reciprocal_lengths(features) if self.normalize else features

    def _table(self, variables: Variables, ids: Any) -> Float[Array, "*position d"]:
        """Vectors of some words; the gradient reaches what trains alone."""
        chosen = jax.lax.stop_gradient(variables["frozen"]["local_words"])[ids]
        if self.tuned:
            chosen = chosen + variables["params"]["codebook_change"][ids]
        if self.projected:
            learned = variables["params"]["codebook_map"]
            precision = jax.lax.Precision.HIGHEST
            chosen = jnp.matmul(chosen, learned["kernel"], precision=precision) + learned["bias"]
        return chosen
