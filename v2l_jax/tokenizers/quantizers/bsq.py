"""Binary spherical quantization (Zhao et al. 2024, BSQ-ViT): signs of a unit vector."""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from v2l_jax.ops.unit_vectors import unit_features
from v2l_jax.options import WEIGHT, number, one_of, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Variables, pull_together, straight_through
from v2l_jax.tokenizers.quantizers.entropies import bit_entropies
from v2l_jax.tokenizers.quantizers.signs import Signs


@dataclasses.dataclass(frozen=True)
class Options(Signs):
    """Codes of ± 1 / √bits; the first bit of an id is the most significant."""

    name = "bsq"

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

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean‖u − sg(code)‖² + entropy · temperature · (E[H] − H̄), where u =
        z / ‖z‖.
        """
        unit, ids = unit_features(features), self.ids(variables, features, mesh)
        codes = self.vectors(variables, ids)
        group = self.group if self.batch_entropy == "group" else 1
        sure, spread = bit_entropies(unit, self.level, self.temperature, group)
        loss = self.bits * pull_together(unit, codes, self.commitment, 0.0)
        loss += self.entropy * self.temperature * (sure - spread)
        return Quantized(straight_through(unit, codes), ids, loss)

    @property
    def level(self) -> float:
        return self.bits**-0.5

    @property
    def basis(self) -> np.ndarray:
        return (1 << np.arange(self.bits)[::-1]).astype(np.int32)
