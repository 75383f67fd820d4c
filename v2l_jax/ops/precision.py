"""How exactly matrix products and convolutions multiply, by the name of their type.

Accelerators multiply float32 operands in less unless told otherwise: TPUs in bfloat16, GPUs in
TF32. Here "float32" means float32 on every backend, so that words, features and images do not
depend on it; what multiplies faster has a name of its own, "tf32" or "bfloat16". CPUs multiply
float32 in float32 under every name.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class FastFloat32:
    """A type for `dtype` arguments: arrays are float32, their products are faster and coarser.

    Attributes:
      name: what options call it.
      precision: of the products.
    """

    name: str
    precision: lax.Precision

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays; numpy and JAX take this object wherever they take a type."""
        return np.dtype(np.float32)

    def __str__(self) -> str:
        return self.name


TF32 = FastFloat32("tf32", lax.Precision.HIGH)
"""TF32 on GPUs, 10 bits of mantissa; three bfloat16 products, about 16 bits, on TPUs."""


def type_named(name: str) -> DTypeLike:
    """The type that an option names: "float32", "tf32" or "bfloat16"."""
    return TF32 if name == TF32.name else jnp.dtype(name)


def precision_of(dtype: DTypeLike | FastFloat32) -> lax.Precision:
    """The precision of products whose operands have this type.

    Returns:
      HIGHEST for float32, a fast type's own, and DEFAULT for all others, which multiply exactly as
      they are.
    """
    if isinstance(dtype, FastFloat32):
        return dtype.precision
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else lax.Precision.DEFAULT


EXACT = lax.Precision.HIGHEST
"""Of products that are float32 whatever type a network has."""


def products_in(dtype: DTypeLike | FastFloat32) -> contextlib.AbstractContextManager:
    """Gives the precision of `dtype` to products traced inside that name none: those in a library's
    functions that have no argument for it.
    """
    return jax.default_matmul_precision(precision_of(dtype).name.lower())
