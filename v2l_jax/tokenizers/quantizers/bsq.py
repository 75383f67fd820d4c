"""Binary spherical quantization (Zhao et al. 2024, BSQ-ViT): signs of a unit vector."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.unit_vectors import unit_features
from v2l_jax.options import WEIGHT, number, one_of, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, pull_together, straight_through
from v2l_jax.tokenizers.quantizers.entropies import bit_entropies
from v2l_jax.tokenizers.quantizers.lfq import check_groups


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """Codes of ± 1 / √bits; the first bit of an id is the most significant."""

    bits: int = option(18, "of a code", number(1, 30, integer=True))
    group: int = option(
        9, "bits of a table of the batch's entropy; divides bits", number(1, 14, integer=True)
    )
    batch_entropy: str = option(
        "group",
        "'group': of the mean shares of each group's codes; 'bits': of each bit's, without tables",
        one_of("group", "bits"),
    )
    commitment: float = option(
        0.0, "weight of the term that moves the features; 0 in all released configs", WEIGHT
    )
    entropy: float = option(1.0, "weight of the entropy term", WEIGHT)
    temperature: float = option(1.0, "of the soft assignments", number(1e-6))

    dim = property(lambda self: self.bits)
    entries = property(lambda self: 2**self.bits)

    def __post_init__(self) -> None:
        check_groups("bsq", self.bits, self.group)

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Σ [u_i > 0] · 2^(bits − 1 − i)."""
        del variables, mesh
        return jnp.sum((features > 0) * self._basis, axis=-1)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Codes of length one."""
        del variables
        return jnp.where(ids[..., None] & self._basis, self._level, -self._level)

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean‖u − sg(code)‖² + entropy · temperature · (E[H] − H̄), where u =
        z / ‖z‖.
        """
        unit, ids = unit_features(features), self.ids(variables, features, mesh)
        codes = self.vectors(variables, ids)
        group = self.group if self.batch_entropy == "group" else 1
        sure, spread = bit_entropies(unit, self._level, self.temperature, group)
        loss = self.bits * pull_together(unit, codes, self.commitment, 0.0)
        loss += self.entropy * self.temperature * (sure - spread)
        return Quantized(straight_through(unit, codes), ids, loss)

    @property
    def _level(self) -> float:
        return self.bits**-0.5

    @property
    def _basis(self) -> np.ndarray:
        return (1 << np.arange(self.bits)[::-1]).astype(np.int32)
