"""Checksums of a folder's files: storage that loses or flips bits is noticed before its contents
are used.

Orbax reads a flipped bit as another number and says nothing.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator

from etils import epath

AnyPath = pathlib.Path | epath.Path
FILE_NAME = "checksums.json"


class CorruptFolderError(Exception):
    """A folder whose files are not what they were when they were written."""


def write_checksums(folder: AnyPath) -> None:
    """Writes `checksums.json`: the sha256 of every file in the subfolders of `folder`.

    Raises:
      OSError: the disk is full, for example.
    """
    folders = (path for path in folder.iterdir() if path.is_dir())
    files = {
        path.relative_to(folder).as_posix(): _sha256(path) for f in folders for path in _files(f)
    }
    (folder / FILE_NAME).write_text(json.dumps(files))


def verify_checksums(folder: AnyPath) -> None:
    """Compares every file with `checksums.json`.

    Raises:
      CorruptFolderError: a file is missing, unreadable or changed (named), or the checksums are.
    """
    try:
        checksums = json.loads((folder / FILE_NAME).read_text())
        for name, checksum in checksums.items():
            if _sha256(folder / name) != checksum:
                raise CorruptFolderError(f"{name} changed since it was written")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFolderError(f"{error}") from error


def _files(folder: AnyPath) -> Iterator[AnyPath]:
    """All files under a folder; buckets know no recursive patterns."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _sha256(path: AnyPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
