"""Imports of v2l_jax point down the list of rooms, and nothing in it imports the folders around
it.
"""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

# Top floor first. A module may import its own room and the rooms after it.
ROOMS = (
    "main",
    "tokenizer",
    "command_line",
    "jobs",
    "tasks",
    "representations",
    "experiment",
    "sections",
    "run",
    "tokenizers",
    "codebook",
    "llm",
    "towers",
    "training",
    "report",
    "metrics",
    "data",
    "ops",
    "parallel",
    "formats",
    "assets",
)
# Files beside the rooms that every room may import.
GROUND = ("errors", "progress", "atomic_write", "buckets", "options")
# Folders that use the package and that the package must not use.
AROUND = ("launch", "configs", "benchmarks", "tests")

# "importing module -> imported module" that point up today. Entries are only ever removed.
KNOWN_EXCEPTIONS: frozenset[str] = frozenset({})


def test_every_import_points_down():
    upward = {
        f"{importer} -> {imported}"
        for importer, imported in package_imports(_ROOT)
        if not points_down(importer, imported)
    }

    assert upward - KNOWN_EXCEPTIONS == set(), "these imports point up the list of rooms"
    assert KNOWN_EXCEPTIONS - upward == set(), "no longer there: remove from KNOWN_EXCEPTIONS"


def test_every_room_and_ground_file_is_in_the_list():
    package = _ROOT / "v2l_jax"
    names = {path.stem for path in package.glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in package.glob("*/*.py")}

    assert names <= {*ROOMS, *GROUND}


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import v2l_jax.jobs.train", {"v2l_jax.jobs.train"}),
        ("from v2l_jax.jobs import train", {"v2l_jax.jobs.train"}),
        ("from v2l_jax import jobs as verbs, errors", {"v2l_jax.jobs", "v2l_jax.errors"}),
        ("from launch import aot", {"launch.aot"}),
        ("def later():\n    from v2l_jax.jobs import train", {"v2l_jax.jobs.train"}),
        ("from . import loading", {"v2l_jax.run.loading"}),
        ("from ..jobs.train import Trained", {"v2l_jax.jobs.train.Trained"}),
        ("if TYPE_CHECKING:\n    import v2l_jax.jobs\nelse:\n    import configs", {"configs"}),
        ("if typing.TYPE_CHECKING:\n    from v2l_jax import jobs", set()),
        ("import jax\nfrom numpy import testing", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source, expected):
    assert set(imported_modules(ast.parse(source), package="v2l_jax.run")) == expected


@pytest.mark.parametrize(
    "importer, imported, expected",
    [
        ("v2l_jax.jobs.train", "v2l_jax.data.sources", True),
        ("v2l_jax.jobs.train", "v2l_jax.jobs.runner", True),
        ("v2l_jax.data.sources", "v2l_jax.errors", True),
        ("v2l_jax.data.sources", "v2l_jax.jobs.train", False),
        ("v2l_jax.errors", "v2l_jax.assets", False),
        ("v2l_jax.main", "launch.local", False),
    ],
)
def test_direction_follows_the_list(importer, imported, expected):
    assert points_down(importer, imported) is expected


def points_down(importer: str, imported: str) -> bool:
    """Whether a module may import another.

    Args:
      importer: dotted name of the module that imports, inside `v2l_jax`.
      imported: dotted name of what it imports, inside `v2l_jax` or one of `AROUND`.
    """
    if imported.split(".")[0] in AROUND:
        return False
    return _floor(importer) <= _floor(imported)


def package_imports(root: pathlib.Path) -> list[tuple[str, str]]:
    """Every import in `v2l_jax` of the package itself or of a folder around it.

    Args:
      root: the repository.

    Returns:
      Pairs of dotted names, (importing module, imported module).
    """
    pairs = []
    for path in sorted((root / "v2l_jax").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = ".".join(parts[:-1])
        module = package if parts[-1] == "__init__" else ".".join(parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for imported in imported_modules(tree, package=package):
            pairs.append((module, _without_attribute(root, imported)))
    return pairs


def imported_modules(tree: ast.AST, package: str) -> list[str]:
    """Dotted names that a module imports from the project, those of functions included.

    Imports under `if TYPE_CHECKING:` are left out: they are never run.

    Args:
      tree: the module's syntax tree, or a part of it.
      package: dotted name of the package that the module is in, for relative imports.
    """
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(above) + "." if node.level else ""
            module = f"{base}{node.module or ''}".strip(".")
            found += [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for otherwise in node.orelse:
                found += imported_modules(ast.Module([otherwise], []), package)
        else:
            found += imported_modules(node, package)
    return [name for name in found if name.split(".")[0] in ("v2l_jax", *AROUND)]


def _without_attribute(root: pathlib.Path, name: str) -> str:
    """The module that a dotted name lies in: the name itself where it is one."""
    path = root.joinpath(*name.split("."))
    return name if path.is_dir() or path.with_suffix(".py").exists() else name.rpartition(".")[0]


def _floor(module: str) -> int:
    """How far down the list a module lives; ground files lie below every room."""
    _, _, inside = module.partition("v2l_jax.")
    room = inside.split(".")[0]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)
