"""The mesh of devices, and how batches and state get onto it."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from v2l_jax.errors import ConfigError

BATCH_AXES = ("replica", "data", "fsdp")
TENSOR_AXIS = "tensor"
AXES = (*BATCH_AXES, TENSOR_AXIS)
"""The axes of every mesh, from the slowest network to the fastest: "replica" and "data" split the
batch, "fsdp" splits the batch and the training state, "tensor" splits single arrays.
"""


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes `AXES`, in that order.

    Args:
      axes: axis name to size. One size may be -1 and takes the devices that the others leave; an
        axis that is not named has size 1.
      devices: the devices, by default those of all processes. Devices of a described topology can
        be compiled for, not run on.

    Raises:
      ConfigError: an axis is none of `AXES`, the sizes do not multiply to the number of devices, or
        TPU slices cut neither "replica" nor "data".
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if unheard := sorted(set(axes) - set(AXES)):
        raise ConfigError(
            f"mesh axes {dict(axes)}: there is no axis {unheard[0]!r}; there are {', '.join(AXES)}"
        )
    sizes = {name: axes.get(name, 1) for name in AXES}
    unknown = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(unknown) > 1:
        raise ConfigError(
            f"mesh axes {dict(axes)}: only one axis can be -1 (what the others leave)"
        )
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(
            f"mesh axes {dict(axes)}: a size is a positive number, or -1 for what the others leave"
        )
    if unknown and count % known == 0:
        sizes[unknown[0]] = count // known
    if math.prod(sizes.values()) != count:
        raise ConfigError(
            f"mesh axes {dict(axes)} do not fit {count} devices: the sizes must multiply to {count}"
        )
    axis_types = (AxisType.Auto,) * len(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        return Mesh(_over_slices(sizes, slices, devices), tuple(sizes), axis_types=axis_types)
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=axis_types, devices=devices
    )


def _over_slices(
    sizes: Mapping[str, int], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
    """Devices of several TPU slices, arranged so that only the first axis that can be cut crosses
    the network between them.
    """
    across = next((name for name in ("replica", "data") if sizes[name] % slices == 0), None)
    if across is None:
        raise ConfigError(
            f"mesh axes {dict(sizes)} on {slices} TPU slices: make replica (or data) a multiple "
            f"of {slices}"
        )
    between = {name: slices if name == across else 1 for name in sizes}
    inside = [size // between[name] for name, size in sizes.items()]
    return mesh_utils.create_hybrid_device_mesh(inside, tuple(between.values()), devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first dimension over every batch axis (`BATCH_AXES`) of the
    mesh.
    """
    names = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(names if names else None))


def batch_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES if name in mesh.axis_names)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of a global batch that this process's devices hold and its loader reads, ascending.

    Processes whose devices differ only along the "tensor" axis hold the same rows.

    Raises:
      ConfigError: the batch does not divide over the mesh's batch axes.
    """
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ConfigError(
            f"a batch of {batch_size} does not divide over {shards} devices: choose a multiple of "
            f"{shards}"
        )
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in slices]))


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Turns this process's rows of a batch into global arrays over the mesh.

    Args:
      batch: tree of numpy arrays `[local_batch, ...]`; the rows `local_rows` of the global batch.
      mesh: from `make_mesh`.

    Raises:
      ConfigError: the global batch does not divide over the mesh's batch axes.
    """
    sharding, shards = batch_sharding(mesh), batch_shards(mesh)
    local_shards = len(local_rows(mesh, shards))

    def assemble(array):
        array = np.asarray(array)
        size, rest = divmod(len(array) * shards, local_shards)
        rows = local_rows(mesh, size if not rest else len(array))

        def part(index):
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return array[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)

    return jax.tree.map(assemble, batch)


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Places each leaf on the devices of its sharding.

    Args:
      tree: arrays; every process holds each of them whole.
      shardings: a tree of shardings like `tree`.
    """

    def put(leaf, sharding):
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(
            np.shape(leaf), sharding, lambda index: np.asarray(leaf)[index]
        )

    return jax.tree.map(put, tree, shardings)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places a full copy of every leaf on every device of the mesh.

    The copy on a device that already holds the leaf may share its memory: donating the result then
    deletes `tree` too.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return place(tree, jax.tree.map(lambda _: whole, tree))
