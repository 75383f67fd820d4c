"""Takes one file or folder out of a wheel, zip or tar archive, and nothing else."""

import io
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from v2l_jax.errors import AssetError

_CHUNK = 1 << 20


def extract(archive: pathlib.Path, member: str, only: tuple[str, ...], destination: pathlib.Path, limit: int) -> None:
    """Extracts into `destination`, which is created.

    Args:
      archive: a .whl, .zip or .tar.gz file; of a source distribution, the top folder is left away.
      member: a file; a folder ("x/", all below it); or a folder of a zip inside ("x/y.zip!z/", "x/y.zip!").
      only: names to take from the folder; all if empty. Hidden files and __MACOSX are never taken.
      destination: the folder that receives the file, or the folder's content.
      limit: bytes the content may have at most.

    Raises:
      AssetError: no such member, a path that leaves the destination, more content than `limit`, a damaged archive.
    """
    outer, _, inner = member.partition("!")
    budget = _Budget(limit)
    try:
        if "!" not in member:
            _copy(archive, member, only, destination, budget)
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
            nested = pathlib.Path(scratch) / _file_name(outer)
            _copy(archive, outer, (), nested.parent, _Budget(archive.stat().st_size * 2))
            _copy(nested, inner, only, destination, budget)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, ValueError) as error:
        raise AssetError(f"{archive.name} is damaged ({error}); download it again") from error


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

    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
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


def _file_name(path: str) -> str:
    return pathlib.PurePosixPath(path).name


def _copy(
    archive: pathlib.Path, member: str, only: tuple[str, ...], destination: pathlib.Path, budget: _Budget
) -> None:
    found = False
    for path, file in _entries(archive, member):
        relative = pathlib.PurePosixPath(_file_name(path) if path == member else path.removeprefix(member))
        if relative.is_absolute() or ".." in relative.parts or "\\" in path or ":" in path:
            raise AssetError(f"{archive.name} holds a path that leaves its folder: {path!r}; do not use it")
        hidden = any(part.startswith((".", "__MACOSX")) for part in relative.parts)
        if hidden or (only and str(relative) not in only):
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
