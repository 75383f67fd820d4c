"""Folders of a bucket, gs:// or s3://, that programs work on through a copy on the local disk.

Object stores rename nothing, append nothing and lock nothing, and most libraries know files only.
So the copy is an ordinary folder, and what is written into it goes back: `publish` puts a file
under its name in one request, whole or not at all, after all that was written before it. A process
that is killed leaves the bucket as it was after the last `publish`.

Folders called CHECKPOINTS are not copied: orbax writes those into the bucket itself, every process
its own shards.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from v2l_jax.errors import ConfigError, V2LError

CHECKPOINTS = "checkpoints"
LEASE_SECONDS = 60.0
"""A run that has not renewed its lock for so long is taken for dead."""
_ADDRESS = re.compile("([a-z][a-z0-9]+)://")
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


def is_address(text: str) -> bool:
    """Whether a text is the address of a file or folder that is no local path."""
    return bool(_ADDRESS.match(text))


@contextlib.contextmanager
def opened(address: str) -> Iterator[pathlib.Path]:
    """Copies a folder of a bucket, if it is there yet, to the local disk for as long as the block
    runs; what was changed there goes back at the end too.

    Raises:
      ConfigError: a kind of address that is not known, or the package that reads it is missing.
      V2LError: the bucket cannot be read or written.
    """
    copy = _Copy(address)
    _copies.append(copy)
    try:
        copy.pull()
        yield copy.home
    except BaseException:
        with contextlib.suppress(V2LError):
            copy.push()
        raise
    else:
        copy.push()
    finally:
        _copies.remove(copy)
        shutil.rmtree(copy.home, ignore_errors=True)


def publish(path: pathlib.Path) -> None:
    """Where `path` lies in a bucket's copy, brings the bucket up to date, `path` last; else does
    nothing.
    """
    if copy := _copy_of(path):
        copy.push(path)


def push() -> None:
    """Brings buckets up to date with what this process wrote into their copies."""
    for copy in _copies:
        copy.push()


def pull() -> None:
    """Brings copies up to date with what other processes wrote into the buckets."""
    for copy in _copies:
        copy.pull()


def direct(path: pathlib.Path) -> str | None:
    """The address of a folder of a bucket's copy, for libraries that write into buckets themselves;
    None for a folder that is a local one.
    """
    copy = _copy_of(path)
    if copy is None:
        return None
    inside = path.relative_to(copy.home).as_posix()
    return copy.address if inside == "." else f"{copy.address}/{inside}"


def shown(path: pathlib.Path) -> str:
    """A path as users know it: the bucket's address in place of its copy."""
    return direct(path) or str(path)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a second run from writing into the bucket that `folder` is a copy of.

    The lock is an object that only one can create, renewed while the block runs. A run on this host
    that is no longer there, and one elsewhere that renews nothing for LEASE_SECONDS, are dead.

    Raises:
      V2LError: another run writes into it.
    """
    copy = _copy_of(folder)
    if copy is None:
        raise ValueError(f"{folder} is no copy of a bucket")
    lock = _Lock(copy)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetched(address: str, cache: pathlib.Path) -> pathlib.Path:
    """A local copy of a file or folder of a bucket, for reading; made once for each state of it.

    Args:
      address: "gs://bucket/folder", "s3://bucket/file".
      cache: where copies are kept.

    Raises:
      ConfigError: as `opened`.
      V2LError: nothing is there, or it cannot be read.
    """
    fs, root = _file_system(address)
    with _said(f"cannot read {address}"):
        entries = _entries(fs, root)
        if not entries:
            raise FileNotFoundError("there is no such object or folder")
    home = cache / "buckets" / _digest(address, entries) / pathlib.PurePosixPath(root).name
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".incoming-") as draft:
        place = pathlib.Path(draft) / home.name
        targets = [place / name if name else place for name in entries]
        logging.info("fetching %s: %d files", address, len(entries))
        with _said(f"cannot read {address}"):
            _get(fs, [f"{root}/{name}" if name else root for name in entries], targets)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.rename(place, home)
    return home


def digest(address: str) -> str:
    """Tells the present state of a file or folder of a bucket from others: of names, sizes and the
    store's own tags.
    """
    fs, root = _file_system(address)
    with _said(f"cannot read {address}"):
        return _digest(address, _entries(fs, root))


class _Copy:
    """A folder of a bucket and its copy.

    Attributes:
      address: without a slash at the end.
      home: the copy.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self.fs, self.root = _file_system(self.address)
        self.home = _new_home(self.address)
        # By name: the bucket's tag of the object, and time and size of the file, when both were the
        # same.
        self._same: dict[str, tuple[str, tuple[int, int]]] = {}
        self._lock = threading.RLock()

    def pull(self) -> None:
        """Fetches objects that are new, and removes files whose object is gone."""
        with self._lock, _said(f"cannot read {self.address}"):
            there = {n: tag for n, (_, tag) in _entries(self.fs, self.root).items() if _copied(n)}
            wanted = [n for n, tag in there.items() if self._same.get(n, ("",))[0] != tag]
            _get(self.fs, [f"{self.root}/{n}" for n in wanted], [self.home / n for n in wanted])
            for name in wanted:
                self._same[name] = (there[name], _stamp(self.home / name))
            for name in self._same.keys() - there.keys():
                del self._same[name]
                (self.home / name).unlink(missing_ok=True)

    def push(self, last: pathlib.Path | None = None) -> None:
        """Puts files that changed, `last` last, and removes objects whose file was removed."""
        with self._lock, _said(f"cannot write {self.address}"):
            final = last and last.relative_to(self.home).as_posix()
            names = sorted(self._files(), key=lambda name: (name == final, name))
            for name in names:
                stamp = _stamp(self.home / name)
                if self._same.get(name, ("", None))[1] != stamp:
                    self.fs.put_file(str(self.home / name), f"{self.root}/{name}")
                    self.fs.invalidate_cache()
                    self._same[name] = (_tag(self.fs.info(f"{self.root}/{name}")), stamp)
            for name in self._same.keys() - set(names):
                del self._same[name]
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(f"{self.root}/{name}")

    def _files(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.home):
            place = pathlib.Path(folder).relative_to(self.home)
            yield from (n for n in ((place / name).as_posix() for name in names) if _copied(n))


@dataclasses.dataclass
class _Lock:
    """The object ".lock" of a bucket's folder."""

    copy: _Copy

    def __post_init__(self) -> None:
        self._path = f"{self.copy.root}/.lock"
        self._stop = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def acquire(self) -> None:
        while not self._created():
            holder, tag = self._holder()
            if not _is_dead(holder):
                logging.info(
                    "%s may be in use by %s; waiting up to %.0f s to see",
                    self.copy.address,
                    holder,
                    LEASE_SECONDS,
                )
                deadline = time.monotonic() + LEASE_SECONDS
                now = tag
                while now == tag and time.monotonic() < deadline:
                    time.sleep(min(1.0, LEASE_SECONDS / 10))
                    now = self._holder()[1]
                    if now not in (tag, ""):
                        raise V2LError(
                            f"another run is writing into {self.copy.address} ({holder}); wait for "
                            "it, or name another --workdir"
                        )
            with contextlib.suppress(FileNotFoundError), _said(f"cannot write {self.copy.address}"):
                self.copy.fs.rm_file(self._path)
        self._renewing.start()

    def release(self) -> None:
        self._stop.set()
        self._renewing.join()
        with contextlib.suppress(Exception):  # an old lock is seen through
            self.copy.fs.rm_file(self._path)

    def _created(self) -> bool:
        try:
            with _said(f"cannot write {self.copy.address}"):
                self.copy.fs.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _content(self) -> bytes:
        whose = {"host": socket.gethostname(), "process": os.getpid(), "time": time.time()}
        return json.dumps(whose).encode()

    def _holder(self) -> tuple[str, str]:
        """Who holds the lock, in words, and the object's tag."""
        with _said(f"cannot read {self.copy.address}"):
            self.copy.fs.invalidate_cache()
            try:
                whose = json.loads(self.copy.fs.cat_file(self._path))
                tag = _tag(self.copy.fs.info(self._path))
                return f"process {whose['process']} on {whose['host']}", tag
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return "", ""

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(Exception):  # the next time, or the lease runs out
                self.copy.fs.pipe_file(self._path, self._content())


_copies: list[_Copy] = []


def _copy_of(path: pathlib.Path) -> _Copy | None:
    return next((copy for copy in _copies if path.is_relative_to(copy.home)), None)


def _is_dead(holder: str) -> bool:
    """Whether the process that holds a lock is known to be gone: it was on this host."""
    found = re.fullmatch(r"process (\d+) on (.*)", holder)
    if not found:
        return True  # the lock went away meanwhile
    if found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _new_home(address: str) -> pathlib.Path:
    """A new folder for a copy; those that killed processes left are removed."""
    stem = f"v2l_jax-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    for old in pathlib.Path(tempfile.gettempdir()).glob(f"{stem}-*"):
        process = old.name.split("-")[2]
        if _is_dead(f"process {process} on {socket.gethostname()}"):
            shutil.rmtree(old, ignore_errors=True)
    return pathlib.Path(tempfile.mkdtemp(prefix=f"{stem}-{os.getpid()}-"))


def _file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    import fsspec

    kind = _ADDRESS.match(address)
    if not kind or kind[1] not in _PACKAGES:
        known = ", ".join(f"{name}://" for name in _PACKAGES)
        raise ConfigError(f"{address} is no address that can be read or written; known: {known}")
    try:
        fs, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES[kind[1]]
        raise ConfigError(
            f"{address} needs the package {package}: pip install {package}"
        ) from error
    except Exception as error:
        raise V2LError(f"cannot open {address}: {_reason(error)}") from error
    return fs, root.rstrip("/")


def _entries(fs: Any, root: str) -> dict[str, tuple[int, str]]:
    """Size and tag of each object, by its name below `root`; "" is `root` itself, an object."""
    fs.invalidate_cache()
    try:
        found = fs.find(root, detail=True)
    except FileNotFoundError:
        return {}
    entries = {}
    for path, info in found.items():
        name = path.removeprefix(root).lstrip("/")
        if info["type"] == "file" and not path.endswith("/"):
            if ".." in name.split("/"):
                raise ValueError(f"an object of the name {path!r}")
            entries[name] = (int(info["size"]), _tag(info))
    return entries


def _tag(info: dict[str, Any]) -> str:
    """What the store changes with every state of an object."""
    tags = [info.get(key) for key in ("generation", "etag", "ETag", "md5Hash", "mtime")]
    return json.dumps([info["size"], *tags], default=str)


def _digest(address: str, entries: dict[str, tuple[int, str]]) -> str:
    state = json.dumps([address.rstrip("/"), sorted(entries.items())])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def _get(fs: Any, paths: list[str], places: list[pathlib.Path]) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    if paths:
        fs.get(paths, [str(place) for place in places])


def _copied(name: str) -> bool:
    """Whether an object belongs into the copy: not checkpoints, locks, drafts."""
    *folders, file = name.split("/")
    return bool(file) and CHECKPOINTS not in folders and not file.startswith(".")


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Says in one line what a store refuses: libraries raise errors of many kinds."""
    try:
        yield
    except (V2LError, FileExistsError):
        raise
    except Exception as error:
        raise V2LError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
