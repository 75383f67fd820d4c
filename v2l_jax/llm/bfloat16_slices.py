"""Slices of bfloat16 arrays on a CPU, where XLA would convert the whole array to float32 first.

XLA's CPU compiler slices integers of 16 bits as they are, but not bfloat16: taking one layer of a
stack, or writing one, converts the entire stack to float32 and back. On a CPU, `Llama` therefore
slices bfloat16 parameters through their bits (`take`) and stores keys and values as bits
(`storage_dtype`). Only this module and `llama.py` know: parameters are bfloat16 arrays, and a
`KVCache` is opaque to its holders. Results are equal bit for bit; V2L_JAX_CPU_FORMS=off (see
`ops.cpu`) slices as on other backends.
"""

import os

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Int


def slices_bits(dtype: DTypeLike) -> bool:
    """Whether arrays of this type are sliced through their bits: bfloat16 on a CPU."""
    on_cpu = jax.default_backend() == "cpu" and os.environ.get("V2L_JAX_CPU_FORMS") != "off"
    return on_cpu and jnp.dtype(dtype) == jnp.bfloat16


def storage_dtype(dtype: DTypeLike) -> DTypeLike:
    """The type in which a stack of `dtype` is stored when slices of it are written too."""
    return jnp.uint16 if slices_bits(dtype) else dtype


def stored(x: Array, dtype: DTypeLike) -> Array:
    """Floats in a storage type: bfloat16's bits for uint16, else `dtype` itself."""
    if dtype == jnp.uint16:
        return lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
    return x.astype(dtype)


def floats(x: Array) -> Array:
    """What `stored` was given, rounded to the type it was stored in."""
    return lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


def take(array: Array, index: Int[Array, "*shape"]) -> Array:
    """`array[index]` along the first axis, for one index or an array of them."""
    return _take_bits(array, index) if slices_bits(array.dtype) else _take(array, index)


@jax.custom_jvp  # bits have no derivative
def _take_bits(array: Array, index: Array) -> Array:
    # Without the barrier the conversion to bits is moved out of the loop over layers, as a copy of
    # the whole stack.
    array, index = lax.optimization_barrier((array, index))
    return floats(_take(stored(array, jnp.uint16), index))


@_take_bits.defjvp
def _take_bits_jvp(primals, tangents):
    return _take_bits(*primals), _take(tangents[0], primals[1])


def _take(array: Array, index: Array) -> Array:
    if jnp.ndim(index):
        return jnp.take(array, index, axis=0)
    return lax.dynamic_index_in_dim(array, index, keepdims=False)
