"""Matrix products of a frozen tower in a chosen input type, always accumulated in float32."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.ops.precision import precision_of


def dot_general_in(dtype: DTypeLike) -> Callable[..., jax.Array]:
    """Returns a `dot_general` for `nn.Dense` that rounds its operands to `dtype` and returns
    float32.

    Asking for the float32 result matters for speed as much as for accuracy: matrix units accumulate
    in float32 anyway, and on CPU the bfloat16 kernel with a bfloat16 result is several times
    slower. Products are as exact as the type says (`ops.precision`), whatever the layer asks for.
    """

    def dot_general(
        lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None, **unused
    ):
        del precision, preferred_element_type, unused
        return jax.lax.dot_general(
            lhs.astype(dtype),
            rhs.astype(dtype),
            dimension_numbers,
            precision_of(dtype),
            preferred_element_type=jnp.float32,
        )

    return dot_general


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum_in(spec: str, x: Array, y: Array, dtype: DTypeLike) -> Float[Array, "..."]:
    """`jnp.einsum` of operands rounded to `dtype`, in float32; its derivative rounds the cotangent
    to `dtype` too.

    So the backward pass runs on the same matrix units as the forward pass: JAX's own derivative
    would multiply the float32 cotangent, ten times slower on a CPU with bfloat16 units.

    Args:
      spec: "lhs,rhs->out"; every letter stands in exactly two of the three.
      x, y: operands; cotangents come back in their types.
      dtype: of the inputs of the products, which are as exact as it says (`ops.precision`).
    """
    return jnp.einsum(
        spec,
        x.astype(dtype),
        y.astype(dtype),
        precision=precision_of(dtype),
        preferred_element_type=jnp.float32,
    )


def _einsum_forward(spec, x, y, dtype):
    return einsum_in(spec, x, y, dtype), (x, y)


def _einsum_backward(
    spec: str, dtype: DTypeLike, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    lhs, rhs, out = spec.replace("->", ",").split(",")
    x, y = operands
    dx: Array = einsum_in(f"{out},{rhs}->{lhs}", cotangent, y, dtype)
    dy: Array = einsum_in(f"{lhs},{out}->{rhs}", x, cotangent, dtype)
    return dx.astype(x.dtype), dy.astype(y.dtype)


einsum_in.defvjp(_einsum_forward, _einsum_backward)
