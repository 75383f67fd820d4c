"""A plugin of pytest for machines without network and without a mesh, `-p tests.offline`: a test
that needs an asset, a package or a program that is not there skips, and says which.
"""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Fixtures fetch assets too."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """The test itself."""
    return (yield from _skipping())


def _skipping():
    from v2l_jax.errors import AssetError

    try:
        return (yield)
    except AssetError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error).partition(" (")[0])
    except ModuleNotFoundError as error:
        pytest.skip(f"the package {error.name} is not here")


def pytest_ignore_collect(collection_path):
    """A file that imports a package which is not here is left out; its name is in the log."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    missing = [name for name in _imported(collection_path) if not _is_here(name)]
    if missing:
        print(f"{collection_path.relative_to(ROOT)} needs {', '.join(missing)}: left out")
    return True if missing else None


def _imported(path):
    import ast

    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def _is_here(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None
