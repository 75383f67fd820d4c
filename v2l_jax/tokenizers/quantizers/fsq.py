"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505): each number is rounded to one
of a few levels; no codebook, no loss.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.options import each, number, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, straight_through

_MARGIN = 1e-3  # the outermost levels are reached before tanh saturates


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """Levels of the paper's Table 1: 2^8 (8,6,5), 2^10 (8,5,5,5), 2^12 (7,5,5,5,5), 2^14
    (8,8,8,6,5), 2^16 (8,8,8,5,5,5).
    """

    levels: tuple[int, ...] = option(
        (8, 8, 8, 6, 5),
        "values that each number can have; their product is the codebook's size",
        each(number(2, integer=True), least=1),
    )

    dim = property(lambda self: len(self.levels))
    entries = property(lambda self: math.prod(self.levels))

    def bounded(self, features: Float[Array, "*position d"]) -> Float[Array, "*position d"]:
        """Numbers that round to the levels: tanh(z + shift) · half − offset."""
        levels = np.asarray(self.levels)
        half = (levels - 1) * (1 - _MARGIN) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.tan(offset / half)
        return jnp.tanh(features + shift.astype("f")) * half.astype("f") - offset.astype("f")

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Σ (level_i + ⌊L_i / 2⌋) · Π_{j < i} L_j."""
        del variables, mesh
        whole = jnp.round(self.bounded(features)).astype(jnp.int32) + self._half_widths
        return jnp.sum(whole * self._basis, axis=-1)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Levels divided by ⌊L / 2⌋, in [−1, 1]."""
        del variables
        whole = ids[..., None] // self._basis % np.asarray(self.levels)
        return (whole - self._half_widths).astype(jnp.float32) / self._half_widths

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """Rounded, straight-through; the loss is 0."""
        bounded = self.bounded(features)
        rounded = straight_through(bounded, jnp.round(bounded)) / self._half_widths
        return Quantized(rounded, self.ids(variables, features, mesh), jnp.zeros(()))

    @property
    def _half_widths(self) -> np.ndarray:
        return np.asarray(self.levels, np.int32) // 2

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod((1, *self.levels[:-1])).astype(np.int32)
