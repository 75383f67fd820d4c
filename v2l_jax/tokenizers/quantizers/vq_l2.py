"""A codebook of few dimensions on the unit sphere (Yu et al. 2022, ViT-VQGAN; Sun et al. 2024,
LlamaGen).
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.unit_vectors import unit_features
from v2l_jax.options import POSITIVE, WEIGHT, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import (
    Quantizer,
    Variables,
    nearest_ids,
    pull_together,
    straight_through,
)


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """Features and entries are divided by their length before they are compared."""

    rows: int = option(16_384, "entries of the codebook", POSITIVE)
    width: int = option(8, "length of its vectors", POSITIVE)
    commitment: float = option(0.25, "weight of the term that moves the features", WEIGHT)

    dim = property(lambda self: self.width)
    entries = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Directions at random; their lengths mean nothing."""
        return {"codebook": unit_features(jax.random.normal(key, (self.rows, self.width)))}

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """The rows at the smallest angle."""
        return nearest_ids(unit_features(features), self._table(variables), mesh)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Rows of length one."""
        return self._table(variables)[ids]

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean((sg(e) − z)²) + mean((e − sg(z))²) between unit vectors."""
        unit, ids = unit_features(features), self.ids(variables, features, mesh)
        chosen = self.vectors(variables, ids)
        loss = pull_together(unit, chosen, self.commitment, 1.0)
        return Quantized(straight_through(unit, chosen), ids, loss)

    def _table(self, variables: Variables) -> Float[Array, "entries d"]:
        return unit_features(variables["params"]["codebook"])
