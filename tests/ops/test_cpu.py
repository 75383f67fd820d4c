"""What XLA and malloc are told about the CPU."""

import os
import pathlib
import platform
import subprocess
import sys

import jaxlib
import pytest

from v2l_jax.ops import cpu


def test_capabilities_are_those_of_proc_cpuinfo():
    if not pathlib.Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc/cpuinfo here")
    listed = subprocess.run(
        ["grep", "-m1", "^flags", "/proc/cpuinfo"], capture_output=True, text=True, check=False
    ).stdout.split()
    for flag in ("avx2", "avx512f", "amx_bf16", "fma"):
        assert cpu.cpu_has(flag) == (flag in listed)
    assert not cpu.cpu_has("no_such_flag")


@pytest.mark.parametrize(
    ("capabilities", "given", "expected"),
    [
        ({"avx2"}, "", cpu._CONVOLUTIONS_BY_EIGEN),
        (
            {"avx2"},
            "--xla_force_host_platform_device_count=2",
            f"--xla_force_host_platform_device_count=2 {cpu._CONVOLUTIONS_BY_EIGEN}",
        ),
        (
            {"avx2"},
            "--xla_cpu_experimental_ynn_fusion_type=",
            "--xla_cpu_experimental_ynn_fusion_type=",
        ),
        ({"avx2", "avx512f"}, "", cpu._CONVOLUTIONS_BY_EIGEN),
        ({"avx2", "avx512f", "amx_bf16"}, "", ""),
        (set(), "", ""),
    ],
)
def test_only_cpus_without_amx_are_told(monkeypatch, capabilities, given, expected):
    monkeypatch.setattr(cpu, "cpu_has", capabilities.__contains__)
    monkeypatch.setattr(jaxlib.version, "__version_info__", (0, 10, 2))
    monkeypatch.setenv("XLA_FLAGS", given)
    cpu.choose_convolutions()
    assert os.environ["XLA_FLAGS"] == expected


def test_other_versions_of_jaxlib_are_told_nothing(monkeypatch):
    """They may not know the flag, and XLA ends a process over one that it does not know."""
    monkeypatch.setattr(cpu, "cpu_has", {"avx2"}.__contains__)
    monkeypatch.setattr(jaxlib.version, "__version_info__", (0, 11, 0))
    monkeypatch.setenv("XLA_FLAGS", "")
    cpu.choose_convolutions()
    assert os.environ["XLA_FLAGS"] == ""


def test_the_installed_jaxlib_knows_the_flag():
    environment = os.environ | {"XLA_FLAGS": cpu._CONVOLUTIONS_BY_EIGEN, "JAX_PLATFORMS": "cpu"}
    program = "import jax; print(jax.numpy.arange(3).sum())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "3", done.stderr


_FAULTS = """
import resource
from v2l_jax.ops import cpu
{given}
cpu.with_huge_pages()
block = bytearray(b"1") * 800_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or platform.libc_ver()[1] < "2.35"
    or not _HUGE_PAGES.exists()
    or "[madvise]" not in _HUGE_PAGES.read_text(),
    reason="no huge pages on request here, or a glibc before 2.35",
)
@pytest.mark.parametrize(
    ("given", "environment", "huge"),
    [
        ("cpu._accelerator_is_installed = lambda: False", {}, True),
        ("cpu._accelerator_is_installed = lambda: True", {}, False),
        ("cpu._accelerator_is_installed = lambda: True", {"JAX_PLATFORMS": "cpu"}, True),
        ("", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, False),
    ],
)
def test_large_blocks_lie_in_huge_pages(given, environment, huge):
    """800 MB are 195,000 pages of 4 kB, 381 of 2 MB."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "JAX_PLATFORMS")
    }
    program = [sys.executable, "-c", _FAULTS.format(given=given)]
    done = subprocess.run(
        program, env=kept | environment, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) < 60_000) == huge
