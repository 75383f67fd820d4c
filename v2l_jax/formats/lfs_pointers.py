"""Files that Git LFS has not fetched: a few lines of text where weights should be."""

import os
import pathlib
from collections.abc import Callable

from v2l_jax.errors import V2LError

_BEGINNING = b"version https://git-lfs.github.com/"


def refuse_pointer(path: str | os.PathLike[str], error: Callable[[str], V2LError]) -> None:
    """Checks that a file is more than a pointer of Git LFS; what cannot be opened passes.

    Raises:
      V2LError: what `error` makes: it is one.
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            begins = file.read(len(_BEGINNING))
    except OSError:
        return
    if begins == _BEGINNING:
        raise error(f"{path} is a pointer of Git LFS, not the file: run git lfs pull in its folder")
