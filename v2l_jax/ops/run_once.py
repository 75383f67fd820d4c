"""Programs that run once: quick to compile rather than quick."""

from collections.abc import Callable
from typing import Any

import jax


def run_once(function: Callable[..., Any], *arguments: Any, **jit_options: Any) -> Any:
    """Runs a program that nobody will run again, such as the one that makes a state.

    On a CPU LLVM leaves it as it is: compiling the small tokenizer's start takes a third of the
    time so, and running it a second longer.

    Args:
      function: what to run.
      *arguments: its arguments; what it closes over instead, such as a seed, becomes part of the
        program, and another value another program.
      **jit_options: of `jax.jit`.

    Returns:
      What the function returns.
    """
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    return jax.jit(function, compiler_options=options, **jit_options)(*arguments)
