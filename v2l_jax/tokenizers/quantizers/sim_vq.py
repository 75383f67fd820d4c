"""A frozen codebook behind a learned linear map (Zhu et al. 2024, SimVQ: C at random): all entries
move together, so none is left behind.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.options import COUNT, POSITIVE, WEIGHT, option
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
    """Entries are the rows of C·W: the frozen array "codebook_base", the parameter
    "codebook_map". With C an LLM's embeddings this is TA-Tok, with a text tower's V2L: see
    `vqgan_star`.
    """

    rows: int = option(16_384, "entries of the codebook", POSITIVE)
    width: int = option(128, "length of its vectors, before and behind the map", POSITIVE)
    commitment: float = option(0.25, "weight of the term that moves the features", WEIGHT)
    seed: int = option(0, "draws C", COUNT)

    dim = property(lambda self: self.width)
    entries = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """A map that keeps lengths in the mean."""
        return {"codebook_map": jax.random.normal(key, (self.width,) * 2) * self.width**-0.5}

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """C, normal with vectors of mean square length one."""
        del words
        drawn = jax.random.normal(jax.random.key(self.seed), (self.rows, self.width))
        return {"codebook_base": drawn * self.width**-0.5}

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """The nearest rows of C·W."""
        return nearest_ids(features, self._mapped(variables, ...), mesh)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Rows of C·W."""
        return self._mapped(variables, ids)

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean((sg(e) − z)²) + mean((e − sg(z))²), e = C·W."""
        ids = self.ids(variables, features, mesh)
        chosen = self.vectors(variables, ids)
        loss = pull_together(features, chosen, self.commitment, 1.0)
        return Quantized(straight_through(features, chosen), ids, loss)

    def _mapped(self, variables: Variables, ids: Any) -> Float[Array, "*position d"]:
        base = jax.lax.stop_gradient(variables["frozen"]["codebook_base"])[ids]
        return jnp.matmul(
            base, variables["params"]["codebook_map"], precision=jax.lax.Precision.HIGHEST
        )
