"""The plain learned codebook (van den Oord et al. 2017; Esser et al. 2021)."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.tokenizers.quantizer import Quantized, quantize
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, nearest_ids


@dataclasses.dataclass(frozen=True)
class PlainCodebook(Quantizer):
    """The nearest row, by Euclidean distance, of the parameter "codebook" [entries, dim].

    Attributes:
      rows: entries.
      width: length of their vectors.
      codebook_weight: of the loss's term that moves the codebook.
    """

    rows: int
    width: int
    codebook_weight: float = 0.33

    dim = property(lambda self: self.width)
    entries = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Uniform within ± 1 / entries, as published."""
        bound = 1.0 / self.rows
        shape = (self.rows, self.width)
        return {"codebook": jax.random.uniform(key, shape, minval=-bound, maxval=bound)}

    def table(self, variables: Variables) -> Float[Array, "entries d"]:
        """The codebook's vectors."""
        return variables["params"]["codebook"]

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """The nearest rows."""
        return nearest_ids(features, self.table(variables), mesh)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The rows."""
        return self.table(variables)[ids]

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Straight-through; the commitment term has weight 1."""
        ids = self.ids(variables, features, mesh)
        return quantize(features, ids, self.vectors(variables, ids), self.codebook_weight)
