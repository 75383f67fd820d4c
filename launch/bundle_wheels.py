"""Which wheels a machine lacks, and where they come from."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from v2l_jax.errors import V2LError

ROOT = pathlib.Path(__file__).parents[1]
OF_JAX = ("jax", "jaxlib", "ml-dtypes", "numpy", "opt-einsum", "scipy")
"""What every machine with JAX has."""

_FOR_TESTS = ("hypothesis", "pytest")
_NOT_NEEDED = (
    "huggingface_hub", "matplotlib", "pycocoevalcap", "pycocotools",
    "tensorflow-datasets", "transformers",
)  # fmt: skip
"""Of the project's dependencies, what no stage imports."""


class WheelError(V2LError):
    """A wheel is not to be had."""


def parsed(listed: str) -> frozenset[str]:
    """Names of packages, out of `pip freeze`, `pip list` or a plain list of them."""
    lines = [re.sub(r"#.*", "", line).strip() for line in re.split(r"[\n,]", listed)]
    names = [re.match(r"[A-Za-z0-9][\w.-]*", line) for line in lines]
    return frozenset(str(canonicalize_name(name[0])) for name in names if name)


def lacking(
    python: str, present: Collection[str], requirements: Sequence[str] | None = None
) -> dict[str, str]:
    """Packages that the stages need and the machine lacks, name to version: this environment's.

    Args:
      python: the machine's Python, "3.12".
      present: canonical names of what it has; what these need is taken to be there too.
      requirements: what is needed; the project's dependencies that a stage imports by default.

    Raises:
      WheelError: something needed is not installed here.
    """
    if requirements is None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        named = [Requirement(text).name for text in project["dependencies"]]
        requirements = [name for name in (*named, *_FOR_TESTS) if name not in _NOT_NEEDED]
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        name = str(canonicalize_name(one.name))
        if name in present or name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise WheelError(f"{name} is not installed here, so its version is unknown") from error
        found[name] = distribution.version
        extras = [environment | {"extra": extra} for extra in (*one.extras, "")]
        for text in distribution.requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate(extra) for extra in extras):
                waiting.append(needed)
    return dict(sorted(found.items()))


def download(
    packages: dict[str, str], python: str, platforms: Sequence[str], folder: pathlib.Path
) -> None:
    """Puts a wheel of each package into a folder; what has none is built, if it is pure Python.

    Raises:
      WheelError: names the package that has no wheel for such a machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}=={version}" for name, version in packages.items()]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={platform}" for platform in platforms]
    if _pip("download", *target, "--dest", str(folder), *wanted):
        for package in wanted:  # one by one, to find those without a wheel
            if not _pip("download", *target, "--dest", str(folder), package):
                continue
            if reason := _pip("wheel", "--wheel-dir", str(folder), package):
                raise WheelError(f"no wheel of {package} for Python {python}: {reason}")
    for wheel in folder.glob("*.whl"):
        if not re.search(rf"-(none-any|[\w.]*({'|'.join(platforms)})[\w.]*)\.whl$", wheel.name):
            raise WheelError(f"{wheel.name} was built for this machine, not for {platforms[0]}")


def _pip(command: str, *arguments: str) -> str:
    """Runs pip; returns why it failed, or "" where it did not."""
    options = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    ended = subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *arguments],
        env=os.environ | {"PIP_NO_INPUT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or ["pip failed"])[-1] if ended.returncode else ""
