"""The frozen tower's vector of every photo, computed once a run and kept in the workdir."""

import pathlib

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import Source
from v2l_jax.errors import V2LError
from v2l_jax.formats.numpy_files import read_npy
from v2l_jax.run import loading
from v2l_jax.run.paths import assumed_path
from v2l_jax.run.workdir import write_json


def cached(
    config: ConfigDict, workdir: pathlib.Path, name: str, source: Source
) -> Float[np.ndarray, "images dim"]:
    """Vectors of `source`, read from features/`name`.npy, or made and written there.

    The published pipeline has no augmentation before CLIP, so a photo's vector is the same at every
    step.
    """
    path = workdir / "features" / f"{name}.npy"
    if path.exists():
        vectors = read_npy(path)
        if vectors.ndim != 2 or len(vectors) != len(source):
            raise V2LError(
                f"{path} has shape {vectors.shape}, but there are {len(source)} images; delete it, "
                "and it is made again"
            )
        return vectors
    tower = loading.image_text_tower(config)
    vectors = loading.encode_images(
        tower,
        source,
        config.tower_options.batch_size,
        f"looking at the {name.replace('_', '-')} photos",
    )
    write_json(assumed_path(workdir), list(tower.assumed))
    with atomic_write(path) as draft:
        np.save(draft, vectors)
    return vectors
