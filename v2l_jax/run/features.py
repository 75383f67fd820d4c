"""The frozen tower's vector of every photo, computed once a run and kept in the workdir."""

import functools
import pathlib

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.data.sources import Source, TfdsSource
from v2l_jax.errors import V2LError
from v2l_jax.formats.numpy_files import read_npy
from v2l_jax.parallel.processes import barrier, is_primary
from v2l_jax.run import loading
from v2l_jax.run.paths import assumed_path
from v2l_jax.run.shards import Arrays, Shards, part_of, save_rows
from v2l_jax.run.workdir import write_json
from v2l_jax.towers.image_text import ImageTextTower

_BATCHES = 32  # of a shard


def cached(
    config: ConfigDict, workdir: pathlib.Path, name: str, source: Source, together: bool = False
) -> Float[np.ndarray, "images dim"]:
    """Vectors of `source`, read from features/`name`.npy, or made and written there; the file stays
    on the disk and is read where it is looked at.

    The published pipeline has no augmentation before CLIP, so a photo's vector is the same at every
    step.

    Args:
      config: the experiment.
      workdir: the run's folder.
      name: of the file.
      source: the images.
      together: whether all processes call this together; then all make vectors.
    """
    path = workdir / "features" / f"{name}.npy"
    if not path.exists():
        _make(config, workdir, path, source, together)
    if together:
        barrier(f"features of {name}")
    recall_labels(workdir, name, source)
    vectors = read_npy(path, mmap_mode="r")
    if vectors.ndim != 2 or len(vectors) != len(source):
        raise V2LError(
            f"{path} has shape {vectors.shape}, but there are {len(source)} images; delete it, "
            "and it is made again"
        )
    return vectors


def _make(
    config: ConfigDict, workdir: pathlib.Path, path: pathlib.Path, source: Source, together: bool
) -> None:
    tower = loading.image_text_tower(config)
    rows = _BATCHES * config.tower_options.batch_size
    look = functools.partial(_vectors, config, tower, source, path.stem.replace("_", "-"))
    shards = Shards(path.with_suffix(".shards"), len(source), rows, look, together)
    shards.fill()
    if is_primary() or not together:
        write_json(assumed_path(workdir), list(tower.assumed))
        if isinstance(source, TfdsSource):
            save_rows(_labels_path(workdir, path.stem), shards, "labels")
        save_rows(path, shards, "vectors")
    shards.remove()


def _vectors(
    config: ConfigDict, tower: ImageTextTower, source: Source, name: str, start: int, stop: int
) -> Arrays:
    part, description = part_of(source, start, stop, f"looking at the {name} photos")
    size = config.tower_options.batch_size
    return loading.encode_images(tower, part, size, description, loading.mesh(config))


def recall_labels(workdir: pathlib.Path, name: str, source: Source) -> None:
    """Gives a source that would have to read all its records for their labels those that `cached`
    wrote.
    """
    path = _labels_path(workdir, name)
    if isinstance(source, TfdsSource) and not source.labels_at_hand and path.exists():
        source.remember_labels(read_npy(path))


def _labels_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    return workdir / "features" / f"{name}_labels.npy"
