"""The mesh of devices, and how batches and state get onto it."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from v2l_jax.errors import ConfigError

BATCH_AXES = ("replica", "data", "fsdp")


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """Arranges all devices of all processes in a mesh.

    Args:
      axes: axis name to size, slowest-varying first; one size may be -1: what the others leave.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = dict(axes)
    unknown = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(unknown) > 1:
        raise ConfigError(f"mesh axes {sizes}: only one axis can be -1 (what the others leave)")
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"mesh axes {sizes}: a size is a positive number, or -1 for what the others leave")
    if unknown and devices % known == 0:
        sizes[unknown[0]] = devices // known
    if math.prod(sizes.values()) != devices:
        raise ConfigError(f"mesh axes {dict(axes)} do not fit {devices} devices: the sizes must multiply to {devices}")
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first dimension over every batch axis (`BATCH_AXES`) of the mesh."""
    names = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(names if names else None))


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Turns this process's part of a batch into global arrays over the mesh.

    Args:
      batch: tree of numpy arrays `[local_batch, ...]`; the global batch is the parts of all processes together.
      mesh: from `make_mesh`.

    Raises:
      ConfigError: the global batch does not divide over the mesh's batch axes.
    """
    sharding = batch_sharding(mesh)
    shards = math.prod(mesh.shape[name] for name in BATCH_AXES if name in mesh.axis_names)

    def place(array):
        array = np.asarray(array)
        size = array.shape[0] * jax.process_count()
        if size % shards:
            raise ConfigError(f"a batch of {size} does not divide over {shards} devices: choose a multiple of {shards}")
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(place, batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places a full copy of every leaf on every device of the mesh.

    The copy on a device that already holds the leaf may share its memory: donating the result then deletes `tree` too.
    """
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
