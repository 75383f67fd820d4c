"""Messages of any kind between the processes of one job, which trust each other: pickles."""

import pickle
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from v2l_jax.parallel.processes import meet


def told(message: Any) -> Any:
    """The first process's message, on all; the others' arguments are not looked at. Waits until all
    are here.
    """
    if jax.process_count() == 1:
        return message
    meet("a message")
    data = pickle.dumps(message) if jax.process_index() == 0 else b""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data), np.int32)))
    own = np.frombuffer(data.ljust(size, b"\0")[:size], np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes())


def gathered(message: Any) -> list[Any]:
    """Every process's message, in their order, on all. Waits until all are here."""
    if jax.process_count() == 1:
        return [message]
    meet("answers")
    data = pickle.dumps(message)
    sizes = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.frombuffer(data.ljust(int(sizes.max()), b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [pickle.loads(row.tobytes()[:size]) for row, size in zip(rows, sizes, strict=True)]
