"""Codes of signs, what LFQ and BSQ share: a bit of the id says the sign of a feature."""

import abc
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.errors import ConfigError
from v2l_jax.options import number, option
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables


@dataclasses.dataclass(frozen=True)
class Signs(Quantizer):
    """Codes of ± `level`; the bits of an id lie as `basis` says."""

    name: ClassVar[str]

    bits: int = option(18, "of a code", number(1, 30, integer=True))
    group: int = option(
        9, "bits of a table of the batch's entropy; divides bits", number(1, 14, integer=True)
    )

    dim = property(lambda self: self.bits)
    entries = property(lambda self: 2**self.bits)

    def __post_init__(self) -> None:
        if self.bits % self.group:
            raise ConfigError(
                f"config.model.quantizers.{self.name}.group is {self.group}, but must divide bits, "
                f"{self.bits}"
            )

    @property
    @abc.abstractmethod
    def level(self) -> float:
        """The size of each number of a code."""

    @property
    @abc.abstractmethod
    def basis(self) -> np.ndarray:
        """What each positive feature adds to the id, int32."""

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Σ [z_i > 0] · basis_i."""
        del variables, mesh
        return jnp.sum((features > 0) * self.basis, axis=-1)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Codes of ± level."""
        del variables
        return jnp.where(ids[..., None] & self.basis, self.level, -self.level)
