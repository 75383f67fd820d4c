"""Rows of pictures on the page, from those that `run.pictures.save_pictures` kept."""

import pathlib
from collections.abc import Mapping

from v2l_jax.report.data import Gallery, Picture
from v2l_jax.run.pictures import read_pictures


def kept_gallery(title: str, folders: Mapping[pathlib.Path, str]) -> list[Gallery]:
    """A gallery with a row for each picture of the first folder, beside its versions in the others.

    Args:
      title: of the gallery.
      folders: where pictures of the same numbers lie, and what stands below them.

    Returns:
      One gallery; none where nothing was kept.
    """
    kept = [(read_pictures(folder), caption) for folder, caption in folders.items()]
    rows = [
        [Picture(pictures[i], caption) for pictures, caption in kept if i < len(pictures)]
        for i in range(len(kept[0][0]))
    ]
    return [Gallery(title, rows)] if rows else []
