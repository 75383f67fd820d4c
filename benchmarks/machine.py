"""What a machine reaches at best, measured: the ceilings that the benchmarks' bounds divide by."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


def best_time(call: Callable[[], object], repeats: int) -> float:
    """The shortest of several timed calls, after one that is not counted, in seconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peak(dtype: str, size: int | None = None) -> float:
    """Measured multiply-adds × 2 a second of a square matrix product with float32 result.

    Args:
      dtype: of the factors.
      size: of the matrices' sides; by default large enough for the backend.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / best_time(lambda: product(a).block_until_ready(), 5)


def copy_bandwidth(megabytes: int = 512) -> float:
    """Measured bytes a second, read and written, of copying an array."""
    a = jnp.ones((megabytes << 18,), jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    return 2 * a.nbytes / best_time(lambda: copy(a).block_until_ready(), 5)
