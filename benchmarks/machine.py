"""What a machine reaches at best, measured: the ceilings that the benchmarks' bounds divide by."""

import importlib.util
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
    """Measured multiply-adds × 2 a second of a square matrix product: XLA's, with float32 result,
    or torch's where that is installed and faster, as its bfloat16 products are on some CPUs.

    Args:
      dtype: of the factors.
      size: of the matrices' sides; by default large enough for the backend.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    calls = [lambda: product(a).block_until_ready()]
    if importlib.util.find_spec("torch") and jax.default_backend() in ("cpu", "gpu"):
        calls.append(_torch_product(dtype, size))
    return 2 * size**3 / min(best_time(call, 5) for call in calls)


def _torch_product(dtype: str, size: int) -> Callable[[], object]:
    import torch  # pyright: ignore[reportMissingImports]

    on_cpu = jax.default_backend() == "cpu"
    a = torch.ones((size, size), dtype=getattr(torch, dtype), device="cpu" if on_cpu else "cuda")

    def product() -> None:
        _ = a @ a
        if not on_cpu:
            torch.cuda.synchronize()

    return product


def copy_bandwidth(megabytes: int = 512) -> float:
    """Measured bytes a second, read and written, of copying an array."""
    a = jnp.ones((megabytes << 18,), jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    return 2 * a.nbytes / best_time(lambda: copy(a).block_until_ready(), 5)
