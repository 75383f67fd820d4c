"""Files that are there whole or not at all: written under a temporary name, then renamed."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from v2l_jax import buckets


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`, of the same suffix, to write to; it takes the name when
    the block ends well.

    The folder is made if it is not there. After an error the temporary file is gone and what stood
    at `path` is unchanged. Where the folder is the copy of a bucket's, the file is in the bucket
    too when the block has ended (`buckets`).

    Raises:
      OSError: the folder cannot be made, or the file cannot be renamed.
      V2LError: the bucket cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(
                file.fileno()
            )  # before the name moves, or a power cut may leave an empty file under it
        os.replace(temporary, path)
        buckets.publish(path)
    finally:
        temporary.unlink(missing_ok=True)
