"""The switch between an operation's CPU form and its form for every other backend.

XLA's CPU compiler is slow at some operations that are fast elsewhere: arg-min over long rows,
gradients of convolutions, convolutions of few pixels. Such an operation is written a second time
for the CPU and chosen by `cpu_form`. The environment variable V2L_JAX_CPU_FORMS=off, read when a
function is traced, runs the common form on the CPU too; results agree but for rounding.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jaxlib

_CONVOLUTIONS_BY_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=dot,reduce"
_TUNABLES = "GLIBC_TUNABLES"


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


def cpu_has(flag: str) -> bool:
    """Whether /proc/cpuinfo names a capability, such as "amx_bf16"; False where there is no such
    file.
    """
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(
        flag in line.split() for line in info.read_text().splitlines() if line.startswith("flags")
    )


def choose_convolutions() -> None:
    """On CPUs without AMX, has XLA leave convolutions to Eigen; jaxlib 0.10's default is YNNPACK,
    which keeps products and sums.

    With AVX2 alone Eigen's are up to twice as fast, with AVX-512 up to 1.4 times, with AMX nobody
    has compared them. Before JAX's first computation, since XLA reads its flags once; what the
    user's XLA_FLAGS say of YNNPACK stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    known = jaxlib.version.__version_info__[:2] == (
        0,
        10,
    )  # XLA ends a process over a flag that it does not know
    if known and "ynn" not in flags and cpu_has("avx2") and not cpu_has("amx_bf16"):
        os.environ["XLA_FLAGS"] = f"{flags} {_CONVOLUTIONS_BY_EIGEN}".strip()


def with_huge_pages() -> None:
    """Starts the program anew, once, with glibc's malloc asking for huge pages, where that is worth
    it and not yet so.

    XLA's CPU backend allocates and frees the working memory of every step, hundreds of megabytes.
    The kernel zeroes what it gives: in pages of 4 kB that is a tenth to a seventh of the
    quickstart's training step, in pages of 2 MB next to nothing. Malloc reads this setting when a
    process starts, so call this first. What the user's GLIBC_TUNABLES say stays.
    """
    if _TUNABLES in os.environ or not _malloc_can_ask_for_huge_pages():
        return
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not _accelerator_is_installed():
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            os.environ | {_TUNABLES: "glibc.malloc.hugetlb=1"},
        )


def _malloc_can_ask_for_huge_pages() -> bool:
    """Whether malloc is that of glibc 2.35 or later and the kernel gives huge pages to those who
    ask.
    """
    library, version = platform.libc_ver()
    setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    recent = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    return recent and setting.exists() and "[madvise]" in setting.read_text()


def _accelerator_is_installed() -> bool:
    """Whether JAX would find a backend other than its own CPU one."""
    return (
        bool(importlib.metadata.entry_points(group="jax_plugins"))
        or importlib.util.find_spec("libtpu") is not None
    )
