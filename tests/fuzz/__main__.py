"""Reads damaged files by the hundred thousand: `make fuzz`, or `python -m tests.fuzz [READER …]`.

Each reader gets --inputs damaged files. Anything but success or the project's own error, more than
5 s, more than 1 GB of memory above what the reader needs to start, or an attempt to start a program
or open a connection is a fault; its input is kept under --faults.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import random
import resource
import sys
import tempfile
import time

from absl import logging

from tests.fuzz.harness import violations
from tests.fuzz.mutations import damaged
from tests.fuzz.readers import READERS

_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
    "subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen",
)  # fmt: skip

_MOST_BYTES = 1 << 30


class Executed(BaseException):
    """A reader tried to run something."""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(name: str, count: int, seed: int, faults: pathlib.Path) -> int:
    """Runs one reader; returns how many faults of different kinds were found."""
    rng, reader = random.Random(f"{name}-{seed}"), READERS[name]()
    watching = False

    def audit(event: str, arguments: tuple) -> None:
        if watching and event in _FORBIDDEN:
            raise Executed(f"{event}{arguments!r:.80}")

    sys.addaudithook(audit)
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        place = pathlib.Path(folder)
        warm = list(violations(reader, iter(reader.seeds), place))
        assert not warm, f"{name}: a sound file is refused: {warm[0][1]}"
        watching, began, before = True, time.monotonic(), _peak()
        inputs = (damaged(rng.choice(reader.seeds), reader.seeds, rng) for _ in range(count))
        too_large = lambda: "" if _peak() - before <= _MOST_BYTES else "more than 1 GB"
        for content, what in violations(reader, inputs, place, also=too_large):
            found[what[:80]] += 1
            if found[what[:80]] == 1:
                faults.mkdir(parents=True, exist_ok=True)
                kept = faults / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
                kept.write_bytes(content)
                print(f"{name}: {what[:300]}\n  {kept}", flush=True)
        grown = _peak() - before
        watching = False
    print(
        f"{name}: {count:,} inputs, {sum(found.values())} faults of {len(found)} kinds, "
        f"{time.monotonic() - began:.0f} s, {grown / 2**20:.0f} MB above the start",
        flush=True,
    )
    return len(found)


def main() -> int:
    """Runs the readers named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(READERS), help=", ".join(READERS))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=pathlib.Path, default=pathlib.Path("/tmp/v2l_jax-faults"))
    given = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # what is assumed or left out of a damaged file
    return sum(fuzz(name, given.inputs, given.seed, given.faults) for name in given.readers) and 1


if __name__ == "__main__":
    sys.exit(main())
