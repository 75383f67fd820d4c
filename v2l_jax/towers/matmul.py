"""Matrix products of a frozen tower in a chosen input type, always accumulated in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def dot_general_in(dtype: DTypeLike) -> Callable[..., jax.Array]:
    """Returns a `dot_general` for `nn.Dense` that rounds its operands to `dtype` and returns float32.

    Asking for the float32 result matters for speed as much as for accuracy: matrix units accumulate in
    float32 anyway, and on CPU the bfloat16 kernel with a bfloat16 result is several times slower.
    """

    def dot_general(lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None, **unused):
        del preferred_element_type, unused
        return jax.lax.dot_general(
            lhs.astype(dtype), rhs.astype(dtype), dimension_numbers, precision, preferred_element_type=jnp.float32
        )

    return dot_general
