"""Several codebooks side by side (Ma et al. 2025, UniTok): each part of a feature is quantized by a
codebook of its own.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
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
    """Unit vectors in each part, as in `vq_l2`. A position has `parts` ids, those of part i from
    i · rows on.
    """

    parts: int = option(8, "codebooks", POSITIVE)
    rows: int = option(4_096, "entries of each", POSITIVE)
    width: int = option(8, "length of its vectors", POSITIVE)
    commitment: float = option(0.25, "weight of the term that moves the features", WEIGHT)

    dim = property(lambda self: self.parts * self.width)
    entries = property(lambda self: self.parts * self.rows)
    choices = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Directions at random."""
        shape = (self.parts, self.rows, self.width)
        return {"codebook": unit_features(jax.random.normal(key, shape))}

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w parts"]:
        """In each part, the row at the smallest angle."""
        pieces, table = self._split(features), self._table(variables)
        found = [
            nearest_ids(pieces[..., i, :], table[i], mesh) + i * self.rows
            for i in range(self.parts)
        ]
        return jnp.stack(found, axis=-1)

    def vectors(
        self, variables: Variables, ids: Int[Array, "b h w parts"]
    ) -> Float[Array, "b h w d"]:
        """The parts' rows, one after the other."""
        rows = self._table(variables).reshape(self.entries, self.width)[ids]
        return rows.reshape(*ids.shape[:-1], self.dim)

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """The loss of `vq_l2`, a mean over parts."""
        unit = self._split(features).reshape(features.shape)
        ids = self.ids(variables, features, mesh)
        chosen = self.vectors(variables, ids)
        loss = pull_together(unit, chosen, self.commitment, 1.0)
        return Quantized(straight_through(unit, chosen), ids, loss)

    def _split(self, features: Float[Array, "*position d"]) -> Float[Array, "*position parts w"]:
        return unit_features(features.reshape(*features.shape[:-1], self.parts, self.width))

    def _table(self, variables: Variables) -> Float[Array, "parts rows w"]:
        return unit_features(variables["params"]["codebook"])
