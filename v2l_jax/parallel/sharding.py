"""Sharding rules as data: pairs of a regular expression for names and a PartitionSpec."""

import re
from collections.abc import Sequence
from typing import Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from v2l_jax.errors import ConfigError

Rule = tuple[str, PartitionSpec | Sequence]


def leaf_name(path: tuple) -> str:
    """The path of a leaf as text: `params/encoder/conv_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(
    tree: PyTree,
    mesh: Mesh,
    rules: Sequence[Rule],
    misfits: Literal["raise", "replicate"] = "raise",
) -> PyTree:
    """Chooses the sharding of every leaf by its name.

    Args:
      tree: arrays, or anything with a shape (`jax.eval_shape`).
      mesh: the devices.
      rules: (regex, spec) pairs, in order; the first whose regex is found (`re.search`) in
        `leaf_name` decides. A spec is a PartitionSpec or its arguments, such as `(None, "tensor")`;
        `("...", "fsdp")` splits the last dimension, however many precede it. Leaves that no rule
        matches are replicated.
      misfits: whether a leaf with a dimension that its spec does not divide raises an error or is
        replicated.

    Returns:
      A tree of NamedSharding like `tree`.

    Raises:
      ConfigError: a regex does not compile, or a spec names an axis the mesh lacks, has more
        entries than the leaf has dimensions, or (where misfits raise) does not divide a dimension.
    """
    compiled = [(_compile(pattern), tuple(spec)) for pattern, spec in rules]

    def place(path, leaf):
        name = leaf_name(path)
        for pattern, spec in compiled:
            if pattern.search(name):
                rule = f"sharding rule {pattern.pattern!r} -> {spec} for {name} {tuple(leaf.shape)}"
                spec = _spec(spec, len(leaf.shape))
                misfit = _misfit(leaf.shape, spec, mesh, rule)
                if misfit and misfits == "raise":
                    raise ConfigError(f"{rule}: {misfit}")
                return NamedSharding(mesh, PartitionSpec() if misfit else spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def _compile(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"sharding rule {pattern!r} is not a regular expression: {error}"
        ) from error


def _spec(entries: tuple, dimensions: int) -> PartitionSpec:
    """The entries as a PartitionSpec; a leading "..." stands for as many dimensions as the others
    leave.
    """
    if entries[:1] == ("...",):
        entries = (*[None] * (dimensions - len(entries) + 1), *entries[1:])
    return PartitionSpec(*entries)


def _misfit(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh, rule: str) -> str | None:
    """Which dimension the spec does not divide, in words; None if it fits."""
    if len(spec) > len(shape):
        raise ConfigError(f"{rule}: the rule has more entries than the array has dimensions")
    for dimension, entry in enumerate(spec):
        axes = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        parts = 1
        for axis in axes:
            if axis not in mesh.shape:
                raise ConfigError(f"{rule}: the mesh has axes {tuple(mesh.shape)}, not {axis!r}")
            parts *= mesh.shape[axis]
        if shape[dimension] % parts:
            return f"dimension {dimension} of size {shape[dimension]} does not divide by {parts}"
    return None
