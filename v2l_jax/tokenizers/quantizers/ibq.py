"""Index backpropagation quantization (Shi et al. 2024, arXiv 2412.02692): the gradient reaches
every entry of the codebook.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.ops.nearest import nearest_row
from v2l_jax.options import POSITIVE, WEIGHT, number, option
from v2l_jax.tokenizers.quantizer import Quantized
from v2l_jax.tokenizers.quantizers.base import Quantizer, Variables, pull_together
from v2l_jax.tokenizers.quantizers.entropies import entropy_of_logits


@dataclasses.dataclass(frozen=True)
class Options(Quantizer):
    """The entry of the largest inner product; straight-through on the one-hot choice."""

    rows: int = option(16_384, "entries of the codebook", POSITIVE)
    width: int = option(256, "length of its vectors", POSITIVE)
    commitment: float = option(0.25, "weight of the hard entries' term that moves them", WEIGHT)
    entropy: float = option(0.05, "weight of the entropy term", WEIGHT)
    temperature: float = option(0.01, "of the entropy term's softmax", number(1e-6))

    dim = property(lambda self: self.width)
    entries = property(lambda self: self.rows)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Uniform within ± 1 / entries."""
        bound = 1.0 / self.rows
        shape = (self.rows, self.width)
        return {"codebook": jax.random.uniform(key, shape, minval=-bound, maxval=bound)}

    def ids(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Int[Array, "b h w"]:
        """Rows of the largest inner product, found like nearest rows whose lengths do not count."""
        table = variables["params"]["codebook"]
        flat = features.reshape(-1, features.shape[-1])
        return nearest_row(flat, table, mesh=mesh, squared_lengths=jnp.zeros(len(table))).reshape(
            features.shape[:-1]
        )

    def vectors(self, variables: Variables, ids: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The rows."""
        return variables["params"]["codebook"][ids]

    def quantize(
        self, variables: Variables, features: Float[Array, "b h w d"], mesh: Mesh | None = None
    ) -> Quantized:
        """With h = onehot(argmax), p = softmax(z·Eᵀ): vectors (h − sg(p) + p)·E.

        Loss = mean((soft − z)²) + mean((sg(hard) − z)²) + commitment · mean((hard − sg(z))²) +
        entropy · (E[H(p)] − H(E[p])); memory holds [tokens, entries].
        """
        table, ids = variables["params"]["codebook"], self.ids(variables, features, mesh)
        product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        logits = product(features, table.T)
        shares = jax.nn.softmax(logits)
        one_hot = jax.nn.one_hot(ids, self.rows)
        soft = product(one_hot - jax.lax.stop_gradient(shares) + shares, table)
        loss = jnp.mean((soft - features) ** 2)
        loss += pull_together(features, table[ids], 1.0, self.commitment)
        if self.entropy:
            sure, spread = entropy_of_logits(logits / self.temperature)
            loss += self.entropy * (sure - spread)
        return Quantized(soft, ids, loss)
