"""Extracts one file or folder from a wheel, zip, tar or Debian archive."""

import errno
import fnmatch
import io
import lzma
import pathlib
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from v2l_jax.errors import AssetError

_CHUNK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error, EOFError,
    NotImplementedError, RuntimeError, LookupError, OverflowError, TypeError, ValueError,
)  # fmt: skip
_OF_THE_ARCHIVE = (
    None, errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ,
)  # fmt: skip
"""What names and places in an archive make the system say; a full disk is none of them."""


def extract(
    archive: pathlib.Path,
    member: str,
    only: tuple[str, ...],
    destination: pathlib.Path,
    limit: int,
    without: tuple[str, ...] = (),
) -> None:
    """Extracts into `destination`, which is created.

    Args:
      archive: a .whl, .zip, .tar.gz or .tgz (npm) file, whose top folder is left away, or Debian's
        .deb.
      member: a file; a folder ("x/", all below it); or a folder of a zip inside ("x/y.zip!z/",
        "x/y.zip!").
      only: paths to take from the folder, patterns with * among them; all if empty. Hidden files
        and __MACOSX are never taken.
      destination: the folder that receives the file, or the folder's content.
      limit: bytes the content may have at most.
      without: paths not to take, though `only` names them.

    Raises:
      AssetError: no such member, a path that leaves the destination, more content than `limit`, a
        damaged archive.
    """
    outer, _, inner = member.partition("!")
    budget = _Budget(limit)
    try:
        if "!" not in member:
            _copy(archive, member, only, without, destination, budget)
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
            nested = pathlib.Path(scratch) / _file_name(outer)
            _copy(archive, outer, (), (), nested.parent, _Budget(archive.stat().st_size * 2))
            _copy(nested, inner, only, without, destination, budget)
    except _DAMAGE as error:
        raise AssetError(f"{archive.name} is damaged ({error}); download it again") from error
    except OSError as error:
        if error.errno not in _OF_THE_ARCHIVE:
            raise
        raise AssetError(
            f"{archive.name} is damaged ({error.strerror or error}); download it again"
        ) from error


class _Budget:
    def __init__(self, limit: int):
        self.left = limit

    def spend(self, count: int, name: str) -> None:
        """Counts written bytes; declared sizes are not believed."""
        self.left -= count
        if self.left < 0:
            raise AssetError(f"{name} unpacks to more than expected; download it again")


def _entries(archive: pathlib.Path, member: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Regular files of the archive that are, or lie below, the member: (path, open file)."""
    is_folder = member.endswith("/") or not member

    def wanted(path: str) -> bool:
        return path.startswith(member) if is_folder else path == member

    if archive.name.endswith((".tar.gz", ".tgz", ".deb")):
        packed = io.BytesIO(_data_of_deb(archive)) if archive.name.endswith(".deb") else None
        with tarfile.open(None if packed else archive, fileobj=packed) as tar:
            for entry in tar:
                path = entry.name.partition("/")[2]
                if entry.isreg() and wanted(path):
                    yield path, tar.extractfile(entry) or io.BytesIO()
        return
    with zipfile.ZipFile(archive) as package:
        for info in package.infolist():
            if not info.is_dir() and wanted(info.filename):
                with package.open(info) as file:
                    yield info.filename, file


def _data_of_deb(archive: pathlib.Path) -> bytes:
    """The tar archive of a Debian package's files: the "data.tar" member of an `ar` archive."""
    with open(archive, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("not a Debian package")
        while header := file.read(60):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            content = file.read(size)
            if len(content) < size:
                raise EOFError("the file is cut short")
            if name.startswith("data.tar"):
                return content
            file.seek(size % 2, io.SEEK_CUR)  # members begin at even places
    raise ValueError("a Debian package without files")


def _file_name(path: str) -> str:
    return pathlib.PurePosixPath(path).name


def _copy(
    archive: pathlib.Path,
    member: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    destination: pathlib.Path,
    budget: _Budget,
) -> None:
    found = False
    for path, file in _entries(archive, member):
        relative = pathlib.PurePosixPath(
            _file_name(path) if path == member else path.removeprefix(member)
        )
        if relative.is_absolute() or ".." in relative.parts or "\\" in path or ":" in path:
            raise AssetError(
                f"{archive.name} holds a path that leaves its folder: {path!r}; do not use it"
            )
        hidden = any(part.startswith((".", "__MACOSX")) for part in relative.parts)
        wanted = not only or any(fnmatch.fnmatchcase(str(relative), pattern) for pattern in only)
        if hidden or not wanted or str(relative) in without:
            continue
        target = destination / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as out:
            while chunk := file.read(_CHUNK):
                budget.spend(len(chunk), archive.name)
                out.write(chunk)
        found = True
    if not found:
        raise AssetError(f"{archive.name} does not hold {member or 'any file'}")
