"""What XLA and malloc are told about the CPU."""

import os
import pathlib
import subprocess
import sys

import jaxlib.version
import pytest

from v2l_jax.ops import cpu_settings

EIGEN = "--xla_cpu_experimental_ynn_fusion_type=individual_dot,reduce"
QUIET = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}


@pytest.fixture
def cpu(monkeypatch):
    """Lets a test say what the machine has."""

    def make(capabilities, accelerator=False, version=(0, 10, 2), huge_pages=True):
        monkeypatch.setattr(cpu_settings, "cpu_has", capabilities.__contains__)
        monkeypatch.setattr(cpu_settings, "_accelerator_is_installed", lambda: accelerator)
        monkeypatch.setattr(cpu_settings, "_malloc_can_ask_for_huge_pages", lambda: huge_pages)
        monkeypatch.setattr(jaxlib.version, "__version_info__", version)

    return make


def test_capabilities_are_those_of_proc_cpuinfo():
    if not pathlib.Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc/cpuinfo here")
    listed = subprocess.run(
        ["grep", "-m1", "^flags", "/proc/cpuinfo"], capture_output=True, text=True, check=False
    ).stdout.split()
    for flag in ("avx2", "avx512f", "amx_bf16", "fma"):
        assert cpu_settings.cpu_has(flag) == (flag in listed)
    assert not cpu_settings.cpu_has("no_such_flag")


@pytest.mark.parametrize(
    ("capabilities", "given", "expected"),
    [
        ({"avx2"}, None, EIGEN),
        ({"avx2"}, "--xla_x=2", f"--xla_x=2 {EIGEN}"),
        ({"avx2"}, "--xla_cpu_experimental_ynn_fusion_type=", None),
        ({"avx2", "avx512f"}, "", EIGEN),
        ({"avx2", "avx512f", "amx_bf16"}, "", None),
        (set(), "", None),
    ],
)
def test_only_cpus_without_amx_are_told(cpu, capabilities, given, expected):
    cpu(capabilities)
    environment = QUIET if given is None else QUIET | {"XLA_FLAGS": given}
    assert cpu_settings.recommended(environment) == (
        {} if expected is None else {"XLA_FLAGS": expected}
    )


def test_other_versions_of_jaxlib_are_told_nothing(cpu):
    """They may not know the flag, and XLA ends a process over one that it does not know."""
    cpu({"avx2"}, version=(0, 11, 0))
    assert cpu_settings.recommended(QUIET) == {}


@pytest.mark.parametrize(
    ("accelerator", "huge_pages", "environment", "told"),
    [
        (False, True, {}, True),
        (True, True, {}, False),
        (True, True, {"JAX_PLATFORMS": "cpu"}, True),
        (False, False, {}, False),
        (False, True, QUIET, False),
        (False, True, {"V2L_JAX_CPU_SETTINGS": "off"}, False),
    ],
)
def test_who_is_told_about_huge_pages(cpu, accelerator, huge_pages, environment, told):
    cpu({"amx_bf16"}, accelerator, huge_pages=huge_pages)
    expected = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if told else {}
    assert cpu_settings.recommended(environment) == expected


def test_off_sets_nothing(cpu):
    cpu({"avx2"})
    assert len(cpu_settings.recommended({})) == 2
    assert cpu_settings.recommended({"V2L_JAX_CPU_SETTINGS": "off"}) == {}


def test_a_running_process_is_told_about_convolutions_and_logs_it(cpu, monkeypatch, caplog):
    cpu({"avx2"})
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=2")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("V2L_JAX_CPU_SETTINGS", raising=False)
    with caplog.at_level("INFO", logger="absl"):
        cpu_settings.apply()
    assert os.environ["XLA_FLAGS"] == f"--xla_x=2 {EIGEN}"
    assert "GLIBC_TUNABLES" not in os.environ
    assert [EIGEN in text and "V2L_JAX_CPU_SETTINGS=off" in text for text in caplog.messages] == [
        True,
        False,
    ]
    assert "python -m launch.environment" in caplog.messages[1]


def test_the_installed_jaxlib_knows_the_flag():
    environment = os.environ | {"XLA_FLAGS": EIGEN, "JAX_PLATFORMS": "cpu"}
    program = "import jax; print(jax.numpy.arange(3).sum())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "3", done.stderr
