"""Multi-head self-attention as BERT and CLIP share it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from v2l_jax.ops.matmul import dot_general_in
from v2l_jax.ops.precision import products_in


class SelfAttention(nn.Module):
    """Softmax self-attention with one fused, biased projection to queries, keys and values (Vaswani
    et al. 2017, 3.2).

    Attributes:
      num_heads: heads; the width must be a multiple of it.
      matmul_dtype: type that matrix products round their operands to; softmax and sums are float32.
    """

    num_heads: int
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "#batch 1 #length length"] | None = None,
    ) -> Float[Array, "batch length width"]:
        """Attends from every position to the positions where `mask[batch, 0, query, key]` is true
        (all, if None).
        """
        batch, length, width = x.shape
        dot = dot_general_in(self.matmul_dtype)
        qkv = nn.Dense(3 * width, dot_general=dot, name="qkv")(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(batch, length, 3, self.num_heads, width // self.num_heads), 2, 0
        )
        q, k, v = (t.astype(self.matmul_dtype) for t in (q, k, v))
        with products_in(self.matmul_dtype):
            y = jax.nn.dot_product_attention(q, k, v, mask=mask).astype(jnp.float32)
        return nn.Dense(width, dot_general=dot, name="out")(y.reshape(batch, length, width))
