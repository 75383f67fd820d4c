"""Work on many items in shards: all processes take part, and a killed run goes on at the shard.

A shard is a file with the arrays of some consecutive items. Which items it has depends on their
number alone, not on the number of processes, so that another number goes on with what is there.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import Source, Subset
from v2l_jax.errors import V2LError
from v2l_jax.formats.numpy_files import read_npz
from v2l_jax.parallel.processes import barrier, is_primary

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shards:
    """Arrays of `count` items, in shards.

    Attributes:
      folder: where they lie until `remove`; its parent folder is the run's.
      count: items.
      rows: items of a shard; the last may have fewer.
      make: arrays by name of the items from a first to before a last one, a row an item.
      together: whether all processes call `fill` together and share the work.
    """

    folder: pathlib.Path
    count: int
    rows: int
    make: Callable[[int, int], Arrays]
    together: bool = False

    def fill(self) -> None:
        """Makes the shards that are missing; of several processes every one its own. All are there
        when this returns.
        """
        share = (jax.process_index(), jax.process_count()) if self.together else (0, 1)
        for start, stop in self._ranges()[share[0] :: share[1]]:
            if not self._path(start, stop).exists():
                self._write(start, stop)
        if self.together:
            barrier(f"shards of {self.folder.name}")

    def __iter__(self) -> Iterator[Arrays]:
        """The shards in order; one that cannot be read is named, and made anew."""
        for start, stop in self._ranges():
            path = self._path(start, stop)
            try:
                yield _read(path, stop - start)
            except V2LError as error:
                logging.warning("%s; it is made anew now", error)
                yield self._write(start, stop)

    def remove(self) -> None:
        """Deletes the files, once their content is elsewhere; one process does."""
        if is_primary() or not self.together:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _ranges(self) -> list[tuple[int, int]]:
        starts = range(0, self.count, self.rows)
        return [(start, min(start + self.rows, self.count)) for start in starts]

    def _path(self, start: int, stop: int) -> pathlib.Path:
        return self.folder / f"{start:09d}-{stop:09d}.npz"

    def _write(self, start: int, stop: int) -> Arrays:
        arrays = self.make(start, stop)
        with atomic_write(self._path(start, stop)) as draft:
            np.savez(draft, **arrays)
        return arrays


def _read(path: pathlib.Path, rows: int) -> Arrays:
    arrays = read_npz(path)
    if not arrays or any(len(array) != rows for array in arrays.values()):
        raise V2LError(f"{path} is damaged (it does not hold {rows} rows)")
    return arrays


def part_of(source: Source, start: int, stop: int, description: str) -> tuple[Source, str]:
    """The images of a shard, and what the progress bar calls the work on them."""
    if stop - start == len(source):
        return source, description
    return Subset(source, range(start, stop)), f"{description} from {start:,} on"


def concatenated(shards: Shards) -> Arrays:
    """All items' arrays, made where they are missing; all processes that share the work call it."""
    shards.fill()
    return joined(shards)


def joined(shards: Shards) -> Arrays:
    """All items' arrays, once `fill` has made them."""
    parts = list(shards)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def save_rows(path: pathlib.Path, shards: Shards, name: str) -> None:
    """Writes one array of all shards as a .npy file, holding one shard at a time."""
    with atomic_write(path) as draft:
        whole, at = None, 0
        for part in shards:
            rows = part[name]
            if whole is None:
                shape = (shards.count, *rows.shape[1:])
                whole = np.lib.format.open_memmap(draft, "w+", rows.dtype, shape)
            whole[at : at + len(rows)] = rows
            at += len(rows)
        if whole is not None:
            whole.flush()
