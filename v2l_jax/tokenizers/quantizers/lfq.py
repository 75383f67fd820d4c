"""Lookup-free quantization (Yu et al. 2024, MAGVIT-v2; Luo et al. 2024, Open-MAGVIT2): the signs of
the features are the code.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.errors import ConfigError
from v2l_jax.options import WEIGHT, number, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, pull_together, straight_through
from v2l_jax.tokenizers.quantizers.entropies import bit_entropies


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """Codes of ± 1; the first bit of an id is the least significant."""

    bits: int = option(18, "of a code", number(1, 30, integer=True))
    group: int = option(
        9, "bits of a table of the batch's entropy; divides bits", number(1, 14, integer=True)
    )
    commitment: float = option(0.25, "weight of the term that moves the features", WEIGHT)
    entropy: float = option(0.1, "weight of the entropy term", WEIGHT)
    temperature: float = option(0.01, "of the entropy term's softmax", number(1e-6))

    dim = property(lambda self: self.bits)
    entries = property(lambda self: 2**self.bits)

    def __post_init__(self) -> None:
        check_groups("lfq", self.bits, self.group)

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Σ [z_i > 0] · 2^i."""
        del variables, mesh
        return jnp.sum((features > 0) * self._basis, axis=-1)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Codes of ± 1."""
        del variables
        return jnp.where(ids[..., None] & self._basis, 1.0, -1.0)

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Loss = commitment · mean((z − sg(code))²) + entropy · (E[H] − H̄)."""
        ids = self.ids(variables, features, mesh)
        codes = self.vectors(variables, ids)
        sure, spread = bit_entropies(features, 1.0, self.temperature, self.group)
        loss = pull_together(features, codes, self.commitment, 0.0)
        loss += self.entropy * (sure - spread)
        return Quantized(straight_through(features, codes), ids, loss)

    @property
    def _basis(self) -> np.ndarray:
        return (1 << np.arange(self.bits)).astype(np.int32)


def check_groups(name: str, bits: int, group: int) -> None:
    """Raises ConfigError where the bits do not fall into groups."""
    if bits % group:
        raise ConfigError(
            f"config.model.quantizers.{name}.group is {group}, but must divide bits, {bits}"
        )
