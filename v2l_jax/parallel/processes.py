"""Several processes as one job: how they join, exchange values, wait for each other, and end when
one of them fails.
"""

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from v2l_jax import buckets
from v2l_jax.errors import ConfigError, V2LError

HEARTBEAT_SECONDS = 30
"""After so long without a heartbeat the coordinator declares a process dead, names it and ends the
others.
"""

_WEEK = 7 * 24 * 3600


@contextlib.contextmanager
def joined(
    coordinator: str | None, count: int | None, index: int | None, patience: float = 25.0
) -> Iterator[None]:
    """Joins the job's other processes (`jax.distributed`) for as long as the block runs.

    If the block fails, this process exits at once, with one line for a V2LError and a traceback for
    anything else. An orderly exit would wait for processes that are themselves waiting for this
    one; they end when its heartbeat stops.

    Args:
      coordinator: "host:port" of process 0; None asks the cluster (Cloud TPU, GKE, Slurm, MPI), and
        for the other two with it.
      count: number of processes.
      index: this one's, from 0.
      patience: seconds to try to reach `coordinator`, whose process may start later.

    Raises:
      ConfigError: the cluster does not say, or process 0 cannot be reached.
    """
    if coordinator is not None:
        _reach(coordinator, patience, listens=index != 0)
    try:
        jax.distributed.initialize(
            coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        where = f"at {coordinator}" if coordinator else "that the cluster names"
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot join the job {where}: {reason}; give --coordinator, --num_processes, "
            "--process_id"
        ) from error
    try:
        yield
    except V2LError as error:
        _leave(f"error: process {jax.process_index()} of {jax.process_count()}: {error}")
    except Exception:
        _leave(traceback.format_exc())


def _reach(coordinator: str, patience: float, listens: bool) -> None:
    """Waits until the coordinator's name is known and, where another process listens there, until
    it answers: JAX itself waits for five minutes and then aborts.
    """
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(
            f"--coordinator is {coordinator!r}, but must be host:port of process 0, such as "
            "10.0.0.2:1234"
        )
    deadline = time.monotonic() + patience
    while True:
        try:
            address = (host.strip("[]"), int(port))
            if not listens:
                socket.getaddrinfo(*address)
                return
            socket.create_connection(address, timeout=min(patience, 5.0)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"cannot reach process 0 at {coordinator} ({error.strerror or error}) for "
                    f"{patience:.0f} s; start it first, check host, port and firewall, or wait "
                    "longer with --coordinator_seconds"
                ) from error
            time.sleep(min(0.5, patience / 10))


def check_devices() -> None:
    """Starts JAX's backend.

    Raises:
      ConfigError: there is none of the platform that JAX_PLATFORMS asks for, or it does not start.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms  # pyright: ignore
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(
            f"JAX finds no device of the platform asked for (JAX_PLATFORMS={asked or ''}): "
            f"{reason}; "
            "unset JAX_PLATFORMS, or install jax for that platform"
        ) from error


def _leave(last_words: str) -> None:
    logging.flush()
    print(last_words, file=sys.stderr, flush=True)
    os._exit(1)


def is_primary() -> bool:
    """Whether this process writes the files that are written once."""
    return jax.process_index() == 0


def broadcast(value: bool) -> bool:
    """Returns the first process's `value` to all; every process must call it."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def barrier(name: str) -> None:
    """Waits, for up to a week, until every process has come to the same call. Then each sees what
    the others wrote before it, in a bucket's folder too.
    """
    if jax.process_count() > 1:
        buckets.push()
        meet(name)
        buckets.pull()


def meet(name: str) -> None:
    """Waits, for up to a week, until every process has come to the same call; files are not looked
    at.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.sync_global_processes(f"v2l_jax:{name}", timeout=_WEEK)


def whole_on_own_devices(tree: PyTree, mesh: Mesh, own: Mesh) -> PyTree:
    """Gathers arrays that are sharded over all processes, whole, onto each of this one's devices.

    Args:
      tree: arrays over `mesh`.
      mesh: devices of all processes.
      own: devices of this one.
    """
    gathered = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    sharding = NamedSharding(own, PartitionSpec())

    def regroup(leaf: jax.Array) -> jax.Array:
        copies = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, copies)

    return jax.tree.map(regroup, gathered)


def _same(tree: PyTree) -> PyTree:
    return tree


def sum_over_processes(tree: PyTree) -> PyTree:
    """Sums of numpy arrays, of the same shapes on every process."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(
        lambda parts: np.sum(parts, axis=0), multihost_utils.process_allgather(tree)
    )
