"""What the CPU can do, and what XLA is told about it."""

import os
import pathlib

import jaxlib

_CONVOLUTIONS_BY_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=dot"


def cpu_has(flag: str) -> bool:
    """Whether /proc/cpuinfo names a capability, such as "amx_bf16"; False where there is no such file."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(flag in line.split() for line in info.read_text().splitlines() if line.startswith("flags"))


def choose_convolutions() -> None:
    """On CPUs without AVX-512, has XLA leave convolutions to Eigen, whose are up to twice as fast there as YNNPACK's, jaxlib 0.10's default.

    Before JAX's first computation, since XLA reads its flags once; what the user's XLA_FLAGS say of YNNPACK stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    known = jaxlib.version.__version_info__[:2] == (0, 10)  # XLA ends a process over a flag that it does not know
    if known and "ynn" not in flags and cpu_has("avx2") and not cpu_has("avx512f"):
        os.environ["XLA_FLAGS"] = f"{flags} {_CONVOLUTIONS_BY_EIGEN}".strip()
