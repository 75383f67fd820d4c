"""A command started with the CPU's settings: what it gets, what is said, and what it is worth."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FAULTS = """
import resource
block = bytearray(b"1") * 800_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(*command, **environment):
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "V2L_JAX_CPU_SETTINGS")
    }
    return subprocess.run(
        [sys.executable, "-m", "launch.environment", *command],
        cwd=ROOT,
        env=kept | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or platform.libc_ver()[1] < "2.35"
    or not _HUGE_PAGES.exists()
    or "[madvise]" not in _HUGE_PAGES.read_text(),
    reason="no huge pages on request here, or a glibc before 2.35",
)
@pytest.mark.parametrize("switch", ["on", "off"])
def test_large_blocks_lie_in_huge_pages(switch):
    """800 MB are 195,000 pages of 4 kB, 381 of 2 MB."""
    done = run(sys.executable, "-c", _FAULTS, V2L_JAX_CPU_SETTINGS=switch)
    assert (int(done.stdout) < 60_000) == (switch == "on")
    lines = done.stderr.splitlines()
    assert len(lines) == (switch == "on")
    assert all("GLIBC_TUNABLES='glibc.malloc.hugetlb=1'" in line for line in lines)


def test_the_command_s_output_and_exit_code_are_its_own():
    done = run("sh", "-c", "echo $0 said; exit 7", "it", V2L_JAX_CPU_SETTINGS="off")
    assert (done.returncode, done.stdout, done.stderr) == (7, "it said\n", "")


def test_a_command_that_is_not_there_is_named():
    done = run("no-such-command", V2L_JAX_CPU_SETTINGS="off")
    assert done.returncode == 1 and "no-such-command" in done.stderr
    assert run().returncode == 1
