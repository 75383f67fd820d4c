"""Batches in a reproducible order, from any number of processes and workers, resumable at any batch
(Grain).

The order depends only on source, seed and batch size: records are shuffled anew each epoch, the
epochs are concatenated and cut into global batches, and each process takes its rows of every batch.
A random transform gets a generator seeded by the seed and the record's position in that sequence.
A run can therefore be stopped and resumed with another number of processes or workers.
"""

import functools
import multiprocessing
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from v2l_jax.data.images import CorruptImageError
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import Transform
from v2l_jax.errors import DataError

Batch = dict[str, Any]

_REPLACED = (
    "_replaced"  # travels in each record from the worker that met a corrupt image to `Loader`
)


def make_loader(
    source: Source,
    transform: Transform | None,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    num_epochs: int | None = None,
    rows: Sequence[int] | Int[np.ndarray, " rows"] | None = None,
    workers: int = 0,
    drop_remainder: bool = True,
    read_threads: int = 4,
) -> "Loader":
    """Builds an iterator over this process's rows of every global batch.

    Args:
      source: where records come from.
      transform: (record, generator) → dict of arrays of fixed shapes; None keeps records as they
        are.
      batch_size: records in a *global* batch.
      seed: of the order and of the transforms; any non-negative integer.
      shuffle: a new order each epoch; False keeps the source's.
      num_epochs: passes over the source, laid end to end before batching; None never ends.
      rows: which of a global batch's records this process gets, as `parallel.mesh.local_rows` says;
        None: all.
      workers: reading processes; 0 reads in threads of this one.
      drop_remainder: leave out a last batch that is not full; must be True where `rows` are given.
      read_threads: batches prepared at a time in each process.

    Returns:
      The iterator; its batches are dicts of arrays with a leading batch axis.

    Raises:
      DataError: the source has fewer records than a batch (over all epochs).
    """
    if rows is not None and not drop_remainder:
        raise DataError("a last batch that is not full cannot be shared among processes; drop it")
    total = len(source) * (num_epochs or 1)
    if not len(source) or (drop_remainder and num_epochs is not None and total < batch_size):
        raise DataError(
            f"{total} records do not fill one batch of {batch_size}; use a smaller batch or more "
            "photos"
        )
    order_seed, transform_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    records = grain.MapDataset.range(len(source))
    if shuffle:
        records = records.shuffle(seed=order_seed)
    records = records.repeat(num_epochs).random_map(_Reader(source, transform), seed=transform_seed)
    if rows is not None:
        records = _Rows(records, batch_size, [int(row) for row in rows])
    batches = records.batch(
        batch_size if rows is None else len(rows), drop_remainder=drop_remainder
    )
    return Loader(
        batches,
        batch_size,
        workers,
        read_threads,
        num_batches=None if num_epochs is None else len(batches),
    )


class Loader(Iterator[Batch]):
    """Iterator over batches whose position can be saved and restored; made by `make_loader`.

    Attributes:
      num_batches: how many batches there are from the start; None if endless.
      replaced: corrupt files met while reading → how often another record took their place. Sources
        that verify files when they scan leave nothing for this; the replacement is the next
        readable record of the source, the same on every run.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        batch_size: int,
        workers: int,
        read_threads: int,
        num_batches: int | None,
    ):
        self._batches, self._batch_size = batches, batch_size
        self._workers, self._read_threads = workers, read_threads
        self.num_batches = num_batches
        self.replaced: dict[str, int] = {}
        self._position = 0
        self._iterator = None

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._iterate_from(self._position)
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            raise _worker_death(error) from error
        self._position += 1
        for path in "\n".join(batch.pop(_REPLACED)).split("\n"):
            if path:
                self._count(path)
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, as JSON-ready numbers: how many records, over all processes, were
        delivered.
        """
        return {"records": self._position * self._batch_size}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues right after the batch that was the last when `get_state` was called.

        The number of processes, workers and even the batch size may differ.

        Raises:
          DataError: the records delivered so far are no whole number of this loader's batches.
        """
        position, rest = divmod(int(state["records"]), self._batch_size)
        if rest:
            raise DataError(
                f"{state['records']} records were read, which is no multiple of batch "
                f"{self._batch_size}"
            )
        self._position, self._iterator = position, None

    def _iterate_from(self, position: int) -> Iterator[Batch]:
        options = grain.ReadOptions(
            num_threads=self._read_threads, prefetch_buffer_size=2 * self._read_threads
        )
        remaining = self._batches[position:].to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # in a notebook; Grain's workers read absl flags
                flags.FLAGS.mark_as_parsed()
            remaining = remaining.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers)
            )
        return iter(remaining)

    def _count(self, path: str) -> None:
        if path not in self.replaced:
            logging.warning("corrupt image %s: the next readable record takes its place", path)
        self.replaced[path] = self.replaced.get(path, 0) + 1


def _worker_death(error: RuntimeError) -> Exception:
    """What a run says of a worker that is gone; any other error stays what it is."""
    pattern = r"[Ww]orker process was terminated unexpectedly with exit code (-?\d+)"
    found = re.search(pattern, str(error))
    if not found:
        return error
    code = int(found[1])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    hint = "; it may have run out of memory: lower config.train.loader_workers"
    return DataError(
        f"a data worker of process {jax.process_index()} on {socket.gethostname()} {how}"
        f"{hint if code == -signal.SIGKILL else ''}; run again, which goes on where this stopped"
    )


class _Reader:
    """Reads and transforms a record; a corrupt one is replaced by the next readable record."""

    def __init__(self, source: Source, transform: Transform | None):
        self._source, self._transform = source, transform

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _end_with_parent()  # whoever unpickles a reader is a worker

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        corrupt = []
        for step in range(len(self._source)):
            try:
                record = self._source[(index + step) % len(self._source)]
            except CorruptImageError as error:
                corrupt.append(error.path)
                continue
            if self._transform is not None:
                record = self._transform(record, rng)
            return {**record, _REPLACED: "\n".join(corrupt)}
        raise DataError(f"none of the {len(corrupt)} images can be read; the first is {corrupt[0]}")


@functools.cache
def _end_with_parent() -> None:
    """Ends a worker process when the one that started it is gone, however that ended: a parent that
    is killed cannot tell its workers, which would wait for it for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Rows(grain.MapDataset):
    """The records at `rows` of every batch of `batch_size` consecutive records."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: list[int]):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[place]]
