"""Patch features of a run's images by a frozen vision transformer, kept in the workdir."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import fit_square, normalise
from v2l_jax.errors import ConfigError, V2LError
from v2l_jax.formats.numpy_files import read_npy
from v2l_jax.metrics.results import Scalar
from v2l_jax.ops.batches import fill
from v2l_jax.progress import progress_bar
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.towers.vit import PatchTower, cached_vit

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class PatchFeatures:
    """Which features of an image's patches.

    Attributes:
      tower: a registered asset, hf:// address or path of a vision transformer.
      layer: blocks before the features, or counted from the end: -2 is one block before the last.
      norm: whether the tower's final LayerNorm follows.
      image_size: side of the square that the tower sees, pixels.
      fit: how an image becomes a square, see `data.transforms.fit_square`.
      pool: side of the grid that patches are averaged to; 0 keeps every patch.
    """

    tower: str
    layer: int
    norm: bool
    image_size: int
    fit: str
    pool: int

    def describe(self) -> dict[str, Scalar]:
        """What tells these features from others."""
        return dataclasses.asdict(self)

    def open_tower(self, dtype: str) -> PatchTower:
        """The tower.

        Raises:
          ConfigError: it has no such layer, or its grid cannot be averaged so.
          DataError: the image is not whole patches.
        """
        tower = cached_vit(loading.locate(self.tower), loading.matmul_dtype(dtype))
        tower.layer_number(self.layer)
        tower.check_size(self.image_size, self.image_size)
        side = self.image_size // tower.config.patch_size
        if self.pool and side % self.pool:
            raise ConfigError(
                f"a grid of {side}×{side} patches cannot be averaged to {self.pool}×{self.pool}; "
                "choose a divisor, or another image size"
            )
        return tower

    def of(self, run: Run, name: str, source: Source) -> Float[np.ndarray, "images r c dim"]:
        """Features of all images of a source, read from the workdir or made and written there.

        Args:
          run: the run.
          name: as for `Run.features`.
          source: the images.
        """
        path = self._path(run, name, source)
        if not path.exists():
            tower = self.open_tower(run.config.tower_options.dtype)
            with atomic_write(path) as draft:
                seconds = self._write(draft, tower, source, name)
            write_json(path.with_suffix(".json"), {"seconds_per_thousand": seconds})
        features = read_npy(path, mmap_mode="r")
        if features.ndim != 4 or len(features) != len(source):
            raise V2LError(
                f"{path} has shape {features.shape}, but there are {len(source)} images; delete "
                "it, and it is made again"
            )
        return features

    def seconds(self, run: Run, name: str, source: Source) -> float | None:
        """What `of` took for a thousand images, in seconds, reading them included and compiling
        not; None where it was not noted.
        """
        noted = read_json(self._path(run, name, source).with_suffix(".json"), {})
        return noted.get("seconds_per_thousand")

    def _path(self, run: Run, name: str, source: Source) -> pathlib.Path:
        known = json.dumps(self.describe() | {"dtype": run.config.tower_options.dtype})
        digest = hashlib.sha256(known.encode()).hexdigest()[:12]
        return run.workdir / "patches" / f"{run.file_name(name, source)}-{digest}.npy"

    def _write(self, path: pathlib.Path, tower: PatchTower, source: Source, name: str) -> float:
        """Writes the features a batch at a time, so that they need not fit in memory; returns the
        seconds that a thousand images took.
        """

        @jax.jit
        def encode(params: Any, images: jax.Array) -> jax.Array:
            _, patches = tower.features(params, images, self.layer, self.norm)
            return pooled(patches, self.pool)

        size = min(_BATCH, len(source))
        batches = make_loader(
            source,
            _Prepare(self.image_size, self.fit, tower.mean, tower.std),
            size,
            seed=0,
            shuffle=False,
            num_epochs=1,
            drop_remainder=False,
        )
        done, total, stored = 0, -(-len(source) // size), None
        shown = progress_bar(batches, f"patch features, {name}", "batch", total=total)
        began, compiled = time.monotonic(), 0.0
        for batch in shown:
            images, count = fill(batch["image"], size)
            features = np.asarray(encode(tower.params, images))[:count]
            if stored is None:
                shape, compiled = (len(source), *features.shape[1:]), time.monotonic()
                stored = np.lib.format.open_memmap(path, "w+", features.dtype, shape)
            stored[done : done + count] = features
            done += count
        if stored is not None:
            stored.flush()
        after = done - size  # the first batch compiles
        return 1000 * (time.monotonic() - (compiled if after else began)) / (after or size)


def pooled(patches: jax.Array, side: int) -> jax.Array:
    """Patches [images, rows, columns, dim] averaged to `side` rows and columns; 0 keeps them."""
    if not side:
        return patches
    images, rows, columns, dim = patches.shape
    cells = patches.reshape(images, side, rows // side, side, columns // side, dim)
    return cells.mean((2, 4))


@dataclasses.dataclass(frozen=True)
class _Prepare:
    size: int
    fit: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        del rng
        return {"image": normalise(fit_square(record["image"], self.size, self.fit), self.mean,
                                   self.std)}  # fmt: skip
