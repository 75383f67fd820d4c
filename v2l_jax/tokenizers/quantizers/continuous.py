"""No quantizer: the decoder reads the features as they are. A bound, not a tokenizer: what the same
network loses without any quantization.
"""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.errors import ConfigError
from v2l_jax.options import POSITIVE, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """All ids are 0 and stand for nothing, so nothing can be decoded from them."""

    width: int = option(256, "numbers a position", POSITIVE)

    dim = property(lambda self: self.width)
    entries = property(lambda self: 1)

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Zeros."""
        del variables, mesh
        return jnp.zeros(features.shape[:-1], jnp.int32)

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """Raises ConfigError: the ids say nothing."""
        raise ConfigError("the quantizer 'continuous' is a bound; its ids cannot be decoded")

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """The features; no loss."""
        return Quantized(features, self.ids(variables, features, mesh), jnp.zeros(()))

    def read(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> tuple[Float[Array, "b h w d"], Int[Array, "b h w"]]:
        """The features, whatever the ids."""
        return features, self.ids(variables, features, mesh)
