"""numpy's own files, .npy and .npz, → arrays; nothing in them is unpickled, and damage is one
line.
"""

import os
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from v2l_jax.errors import V2LError

_DAMAGE = (
    ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, MemoryError,
    NotImplementedError, RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def read_npy(
    path: str | os.PathLike[str],
    error: Callable[[str], V2LError] = V2LError,
    remedy: str = "delete it, and it is made again",
    mmap_mode: Literal["r"] | None = None,
) -> np.ndarray:
    """Reads a .npy file.

    Args:
      path: the file.
      error: makes the error to raise.
      remedy: what to do about a damaged file.
      mmap_mode: "r" maps it instead.

    Raises:
      V2LError: what `error` makes: the file is missing, cut short, damaged, or holds objects.
    """
    found = _load(path, error, remedy, mmap_mode)
    if not isinstance(found, np.ndarray):
        raise error(f"{os.fspath(path)} holds several arrays where one belongs; {remedy}")
    return found


def read_npz(
    path: str | os.PathLike[str],
    error: Callable[[str], V2LError] = V2LError,
    remedy: str = "delete it, and it is made again",
) -> dict[str, np.ndarray]:
    """Reads every array of a .npz file; arguments and errors as in `read_npy`."""
    found = _load(path, error, remedy, None)
    if isinstance(found, np.ndarray):
        raise error(f"{os.fspath(path)} holds one array where several belong; {remedy}")
    return found


def _load(path: Any, error: Callable[[str], V2LError], remedy: str, mmap_mode: Any) -> Any:
    path = pathlib.Path(path)
    try:
        _check_claims(path)
        found = np.load(path, allow_pickle=False, mmap_mode=mmap_mode)
        if isinstance(found, np.ndarray):
            return _checked_text(found)
        with found:
            return {name: _checked_text(found[name]) for name in found.files}
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror or cause})") from cause
    except _DAMAGE as cause:
        reason = " ".join(str(cause).split())[:120] or type(cause).__name__
        raise error(f"{path} is damaged ({reason}); {remedy}") from cause


def _checked_text(array: np.ndarray) -> np.ndarray:
    """The array, after a check that texts consist of characters, of which Python makes a
    SystemError.
    """
    if array.dtype.kind == "U" and array.dtype.itemsize and array.size:
        order = array.dtype.byteorder
        codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(order))
        if codes.max() > 0x10FFFF or ((codes >= 0xD800) & (codes < 0xE000)).any():
            raise ValueError("its texts hold numbers that are no characters")
    return array


def _check_claims(path: pathlib.Path) -> None:
    """Raises ValueError where headers claim more numbers than the file has bytes for: numpy makes
    room for them first.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            _check_header(file, size)
            return
    if not zipfile.is_zipfile(path):
        raise ValueError("no array of numpy")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f"{info.filename} is compressed, or longer than the file")
            with archive.open(info) as member:
                _check_header(member, info.file_size)


def _check_header(file: Any, size: int) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    count = 1
    for side in shape:
        count *= side
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0 or count * dtype.itemsize > size:
        raise ValueError(f"its header claims {count:,} numbers, which are not there")
