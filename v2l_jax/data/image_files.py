"""Finds image files below a folder, links followed, and counts whatever is left out and why."""

import collections
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping

from v2l_jax.data.images import EXTENSIONS
from v2l_jax.errors import DataError

# Pictures that Pillow does not open, whose loss should be said.
UNREAD_PICTURES = frozenset(
    ".heic .heif .jxl .svg .raw .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .eps .ai .psb .exr .hdr"
    " .jls .wmf .emf .zip .tar .gz .tgz .7z .rar .tfrecord .parquet .npy .npz".split()
)

NOT_READ = "pictures or archives of a kind that is not read"
HIDDEN = "hidden"
OTHERS = "no images"
LOOSE = "loose images beside class folders"
EMPTY = "class folders without images"
BROKEN_LINKS = "links that lead nowhere"
UNREADABLE = "folders that cannot be opened"

_SPLITS = frozenset("train training val valid validation test testing".split())


@dataclasses.dataclass
class Found:
    """Image files with their classes, and what was left out.

    Attributes:
      images: (file, class name), in the order of their paths; "" where there is no class.
      left_out: the paths left out for each reason.
    """

    images: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )


def walk(
    folder: str | os.PathLike[str],
    seen: Iterable[str] = (),
    unreadable: Callable[[str], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Every file below a folder, hidden ones too; links to folders are followed, each folder once.

    Args:
      folder: where to begin.
      seen: real paths of folders that are not entered.
      unreadable: is told of each folder that cannot be opened.

    Raises:
      DataError: a folder cannot be opened, and there is no `unreadable`.
    """

    def failed(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if unreadable is None:
            raise DataError(
                f"{error.filename} cannot be opened ({error.strerror}); change its permissions"
            ) from error
        unreadable(str(error.filename))

    visited = {*seen, os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        entered = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(root, name))
            if real not in visited:
                visited.add(real)
                entered.append(name)
        folders[:] = entered
        yield from (pathlib.Path(root, name) for name in sorted(files))


def find_images(root: pathlib.Path, rename: Mapping[str, str], labelled: bool) -> Found:
    """Lists the images below a root, sorted.

    Args:
      root: holds a folder of images a class, or images alone.
      rename: folder name → class name.
      labelled: False: sub-folders mean nothing.

    Raises:
      DataError: there is no such folder, it cannot be opened, the name of a class folder is no
        text, or the folders are splits and no classes.
    """
    if not os.path.isdir(root):
        raise DataError(f"no folder {root}; give a folder of images, or of one sub-folder a class")
    found = Found()
    unreadable = found.left_out[UNREADABLE].append
    if not labelled:
        _sort_in(root, "", walk(root, unreadable=unreadable), found)
        return found
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise DataError(
            f"{root} cannot be opened ({error.strerror}); change its permissions"
        ) from error
    folders = [entry for entry in entries if os.path.isdir(entry) and not _is_hidden(entry.name)]
    _check_no_splits(root, folders)
    for folder in folders:
        plain = composed(folder.name)
        name = composed(rename.get(folder.name) or rename.get(plain) or plain)
        before = len(found.images)
        _sort_in(folder, name, walk(folder, {os.path.realpath(root)}, unreadable), found)
        if len(found.images) == before:
            found.left_out[EMPTY].append(str(folder))
        else:
            _check_name(folder, name)
    loose = Found()
    _sort_in(root, "", (entry for entry in entries if not os.path.isdir(entry)), loose)
    for reason, paths in loose.left_out.items():
        found.left_out[reason] += paths
    if not found.images:
        found.left_out.pop(EMPTY, None)
        found.images = loose.images
    elif loose.images:
        found.left_out[LOOSE] += [str(path) for path, _ in loose.images]
    return found


def composed(name: str) -> str:
    """A name with its accents as they are typed: archives made on a Mac take them apart, and the
    two would be different classes.
    """
    return unicodedata.normalize("NFC", name)


def _check_no_splits(root: pathlib.Path, folders: Iterable[pathlib.Path]) -> None:
    """Raises DataError where all folders are named as splits are and hold folders themselves: the
    classes lie one level below.
    """
    folders = list(folders)
    splits = [folder for folder in folders if folder.name.lower() in _SPLITS]
    if not splits or len(splits) < len(folders):
        return
    inside = (entry for folder in folders for entry in _entries(folder))
    if any(entry.is_dir() for entry in inside):
        names = ", ".join(folder.name for folder in folders)
        raise DataError(
            f"the folders of {root} ({names}) are splits that hold the classes; give one of them, "
            f"such as {folders[0]}, or several"
        )


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """What a folder holds; nothing where it cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError:
        return []


def _check_name(folder: pathlib.Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
        raise DataError(
            f"the name of the class folder '{shown}' in {folder.parent} is not UTF-8, so it cannot "
            "be written for a language model; rename the folder"
        ) from error


def _sort_in(folder: pathlib.Path, name: str, files: Iterable[pathlib.Path], found: Found) -> None:
    """Puts each file below a folder among the images, or among what is left out."""
    images = []
    for path in files:
        parts = path.relative_to(folder).parts
        suffix = path.suffix.lower()
        if any(map(_is_hidden, parts)):
            found.left_out[HIDDEN].append(str(path))
        elif suffix in EXTENSIONS and os.path.isfile(path):
            images.append(path)
        elif suffix in EXTENSIONS:
            found.left_out[BROKEN_LINKS].append(str(path))
        else:
            found.left_out[NOT_READ if suffix in UNREAD_PICTURES else OTHERS].append(str(path))
    found.images += [(path, name) for path in sorted(images)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def in_words(left_out: Mapping[str, Iterable[str]]) -> str:
    """How many were left out for each reason, with an example; "" where nothing was."""
    shown = []
    for reason, paths in left_out.items():
        paths = list(paths)
        if paths:
            shown.append(f"{len(paths)} {reason} (such as {_printable(paths[0])})")
    return ", ".join(shown)


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
