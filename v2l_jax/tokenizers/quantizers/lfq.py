"""Lookup-free quantization (Yu et al. 2024, MAGVIT-v2; Luo et al. 2024, Open-MAGVIT2): the signs of
the features are the code.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from v2l_jax.options import WEIGHT, number, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Variables, pull_together, straight_through
from v2l_jax.tokenizers.quantizers.entropies import bit_entropies
from v2l_jax.tokenizers.quantizers.signs import Signs


@dataclasses.dataclass(frozen=True)
class Options(Signs):
    """Codes of ± 1; the first bit of an id is the least significant."""

    name = "lfq"

    commitment: float = option(0.25, "weight of the term that moves the features", WEIGHT)
    entropy: float = option(0.1, "weight of the entropy term", WEIGHT)
    temperature: float = option(0.01, "of the entropy term's softmax", number(1e-6))

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean((z − sg(code))²) + entropy · (E[H] − H̄)."""
        ids = self.ids(variables, features, mesh)
        codes = self.vectors(variables, ids)
        sure, spread = bit_entropies(features, self.level, self.temperature, self.group)
        loss = pull_together(features, codes, self.commitment, 0.0)
        loss += self.entropy * (sure - spread)
        return Quantized(straight_through(features, codes), ids, loss)

    @property
    def level(self) -> float:
        return 1.0

    @property
    def basis(self) -> np.ndarray:
        return (1 << np.arange(self.bits)).astype(np.int32)
