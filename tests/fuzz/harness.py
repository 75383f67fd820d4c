"""What a reader under test is, and what counts as its fault."""

import dataclasses
import json
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from v2l_jax.errors import V2LError


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
      seeds: sound files.
      read: reads bytes, given a folder to write them to, as deep as a job would.
    """

    seeds: list[bytes]
    read: Callable[[bytes, pathlib.Path], None]


def of_file(name: str, read: Callable[[pathlib.Path], object]) -> Callable:
    """Reads bytes by a function of a path."""

    def through_a_file(content: bytes, folder: pathlib.Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return through_a_file


def of_folder(
    files: Mapping[str, bytes],
    read: Mapping[str, Callable[[pathlib.Path], object]],
    sound: Mapping[str, bytes],
) -> Reader:
    """A reader of a folder of which one file at a time is damaged.

    Args:
      files: by name; an input is such a name, a zero byte and the file's content.
      read: of the folder, by how the name of the damaged file begins.
      sound: files that stay as they are.
    """
    whole: set[str] = set()

    def restored(content: bytes, folder: pathlib.Path) -> None:
        name, _, damaged = content.partition(b"\0")
        chosen = name.decode("latin-1")
        if chosen not in files:
            chosen = sorted(files)[len(content) % len(files)]
        for other, given in {**sound, **files}.items():
            if f"{folder}/{other}" not in whole:
                (folder / other).parent.mkdir(parents=True, exist_ok=True)
                (folder / other).write_bytes(given)
                whole.add(f"{folder}/{other}")
        (folder / chosen).write_bytes(damaged)
        whole.discard(f"{folder}/{chosen}")
        for begins, reads in read.items():
            if chosen.startswith(begins):
                reads(folder)

    seeds = [name.encode() + b"\0" + content for name, content in files.items()]
    return Reader(seeds, restored)


def as_json(*values: object) -> list[bytes]:
    """Each value on one line, and indented."""
    return [json.dumps(value, indent=indent).encode() for value in values for indent in (None, 1)]


def discard(value: object) -> None:
    """Takes a value and does nothing."""
    del value


def touch(tensors: object) -> None:
    """Reads the beginning of every array of a mapping."""
    for value in tensors.values() if isinstance(tensors, Mapping) else ():
        if isinstance(value, np.ndarray):
            value.ravel()[: 1 << 16].tobytes()


def allow_errors(action: Callable[[], object]) -> None:
    """Runs what may end in the project's own error, so that what follows is run too."""
    try:
        action()
    except V2LError as error:
        assert "\n" not in str(error)


class TooLong(BaseException):
    """No Exception, which a reader might take for a damaged file."""


def violations(
    reader: Reader,
    inputs: Iterator[bytes],
    folder: pathlib.Path,
    seconds: float = 5.0,
    also: Callable[[], str] = str,
) -> Iterator[tuple[bytes, str]]:
    """Reads every input; yields those that end in anything but success or the project's own error
    within the time given, and those after which `also` says what is wrong.
    """

    def too_long(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, too_long) if timed else None
    try:
        for content in inputs:
            what = ""
            try:
                if timed:
                    signal.setitimer(signal.ITIMER_REAL, seconds)
                what = _outcome(reader, content, folder)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except TooLong as error:
                what = f"TooLong: {error}"
            if what := what or also():
                yield content, what
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _outcome(reader: Reader, content: bytes, folder: pathlib.Path) -> str:
    """What went wrong, "" where nothing did."""
    try:
        reader.read(content, folder)
    except V2LError as error:
        return f"more than one line: {str(error)!r}" if "\n" in str(error) else ""
    except (KeyboardInterrupt, TooLong):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        return f"{type(error).__name__}: {error}"
    return ""
