"""Environment variables that make JAX faster on a CPU.

GLIBC_TUNABLES   malloc reads it when a process starts, so a launcher sets it
                 (`launch.environment`).
XLA_FLAGS        XLA reads it at its first computation. It changes the rounding of convolutions, so
                 the jobs set it themselves: results do not depend on how they were started.

Whoever sets one says so in a line. V2L_JAX_CPU_SETTINGS=off leaves both as they are; what a
variable already says about the same matter always stays.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
from collections.abc import Mapping

import jaxlib.version
from absl import logging

OPT_OUT = "V2L_JAX_CPU_SETTINGS"
_CONVOLUTIONS_BY_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=individual_dot,reduce"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def cpu_has(flag: str) -> bool:
    """Whether /proc/cpuinfo lists a capability such as "amx_bf16"; False without that file."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(
        flag in line.split() for line in info.read_text().splitlines() if line.startswith("flags")
    )


def recommended(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add or change for a program that will compute on this machine's CPU.

    XLA_FLAGS: on CPUs with AVX2 and without AMX, Eigen computes convolutions and YNNPACK, jaxlib
    0.10's default, the other products. Eigen's are up to twice as fast with AVX2 alone and up to
    1.4 times with AVX-512; with AMX nobody has compared them. Products stay one by one, as jaxlib
    has them: fused with what surrounds them ("dot"), those of bfloat16 take twice as long, and
    with a vocabulary of 150,000 words far longer.

    GLIBC_TUNABLES: malloc asks for pages of 2 MB. XLA's CPU backend allocates and frees the working
    memory of every step, and the kernel zeroes what it gives: in pages of 4 kB that is a tenth to a
    seventh of the quickstart's training step.

    Args:
      environment: of the program, such as `os.environ`.

    Returns:
      Variables with their whole values; empty where all is well, where an accelerator is installed
      that the program may use, and where V2L_JAX_CPU_SETTINGS is "off".
    """
    on_cpu = environment.get("JAX_PLATFORMS") == "cpu" or not _accelerator_is_installed()
    if environment.get(OPT_OUT) == "off" or not on_cpu:
        return {}
    settings, flags = {}, environment.get("XLA_FLAGS", "")
    # XLA ends a process over a flag that it does not know, and other versions may not know this
    # one.
    known = jaxlib.version.__version_info__[:2] == (0, 10)
    if known and "ynn" not in flags and cpu_has("avx2") and not cpu_has("amx_bf16"):
        settings["XLA_FLAGS"] = f"{flags} {_CONVOLUTIONS_BY_EIGEN}".strip()
    if "GLIBC_TUNABLES" not in environment and _malloc_can_ask_for_huge_pages():
        settings["GLIBC_TUNABLES"] = _HUGE_PAGES
    return settings


def apply() -> None:
    """Sets what can still be set in this process before JAX's first computation, in a log line.

    A second line names the launcher where malloc's setting is missing, which comes too late here.
    """
    settings = recommended(os.environ)
    late = settings.pop("GLIBC_TUNABLES", None)
    if settings:
        os.environ.update(settings)
        logging.info("%s", described(settings))
    if late:
        logging.info(
            "malloc uses small pages: `python -m launch.environment COMMAND` starts a COMMAND with"
            " large ones, which makes training on this CPU up to 15 %% faster"
        )


def described(settings: Mapping[str, str]) -> str:
    """One line that says which variables were set and how to leave them alone."""
    named = " ".join(f"{name}='{value}'" for name, value in settings.items())
    return f"CPU settings: {named} ({OPT_OUT}=off leaves them as they are)"


def _malloc_can_ask_for_huge_pages() -> bool:
    """Whether malloc is that of glibc 2.35 or later and the kernel gives huge pages on request."""
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
