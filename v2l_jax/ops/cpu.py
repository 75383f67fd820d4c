"""The switch between an operation's CPU form and its form for every other backend.

XLA's CPU compiler is slow at some operations that are fast elsewhere: arg-min over long rows,
gradients of convolutions, convolutions of few pixels. Such an operation is written a second time
for the CPU and chosen by `cpu_form`. The environment variable V2L_JAX_CPU_FORMS=off, read when a
function is traced, runs the common form on the CPU too; results agree but for rounding.
"""

import os
from collections.abc import Callable
from typing import Any

import jax


def cpu_form(*operands: Any, cpu: Callable, default: Callable) -> Any:
    """Applies `cpu` to the operands where the program is compiled for a CPU, else `default`.

    Args:
      *operands: arrays; other arguments are bound to the functions beforehand.
      cpu: the form for CPUs.
      default: the form for all other backends, and for CPUs where V2L_JAX_CPU_FORMS is "off".

    Returns:
      What the chosen function returns; both return the same shapes and types.
    """
    if os.environ.get("V2L_JAX_CPU_FORMS") == "off":
        return default(*operands)
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)
