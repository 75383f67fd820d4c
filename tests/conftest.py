"""Shared test set-up: shapes checked at run time, compile cache, assets."""

import gc
import os
import pathlib

from tests.compiler_flags import FAST_TO_COMPILE

# One device for what needs no mesh: programs for eight compile a third longer, and weights lie in
# memory eight times.
os.environ.setdefault(
    "XLA_FLAGS",
    f"--xla_force_host_platform_device_count={os.environ.get('TEST_DEVICES', '8')} "
    f"{FAST_TO_COMPILE}",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("v2l_jax", "beartype.beartype")

_CACHE = (
    pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    / "v2l_jax"
    / "compiled"
)
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def asset():
    """Returns a function that fetches a registered asset, real weights and photos, by name."""
    from v2l_jax.assets import fetch as assets

    return assets.fetch


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder with the reference implementation's large golden files; tests skip where it is
    absent.
    """
    folder = pathlib.Path(__file__).parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def torch():
    """PyTorch, the independent source of the parity tests; they skip, by name, where it is
    missing.
    """
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed: make test-parity runs this test"
    )


def _settings() -> dict[str, str]:
    """The environment variables that change what a program computes."""
    prefixes = ("V2L_JAX_", "JAX_", "XLA_", "TPU_", "LIBTPU_")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


_SETTINGS = _settings()


@pytest.fixture(scope="module", autouse=True)
def environment_kept():
    """Each file begins with the settings of before; fails where an import changed them."""
    found = _settings()
    _restore_settings()
    assert found == _SETTINGS, "an import changed the environment"
    yield
    _restore_settings()


def _restore_settings() -> None:
    for name in _settings().keys() - _SETTINGS.keys():
        del os.environ[name]
    os.environ.update(_SETTINGS)


# Tracing makes many small objects; to look through all that was imported ever again for garbage is
# a tenth of its time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

_MOST_BYTES = 2_500_000_000  # of a worker, between two files


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Drops compiled programs after a file where the process has grown; the compile cache on disk
    gives them back to the next.
    """
    yield
    if _resident_bytes() > _MOST_BYTES:
        jax.clear_caches()
        gc.collect()


def _resident_bytes() -> int:
    pages = pathlib.Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


def pytest_collection_modifyitems(items):
    """Marks "parity" every test that compares with PyTorch, so that `make test-parity` runs those
    alone.
    """
    for item in items:
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.parity)


def pytest_runtest_setup(item):
    """A test of meshes never passes on fewer devices than it is about."""
    if item.get_closest_marker("mesh") and jax.device_count() < 8:
        pytest.fail("a test marked mesh wants eight devices: leave TEST_DEVICES unset")
