"""Pictures of a run: made of words, turned into words, judged, and kept for the report."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.images import decode_image
from v2l_jax.data.transforms import to_uint8
from v2l_jax.errors import ConfigError
from v2l_jax.metrics.fid import frechet_inception_distance
from v2l_jax.metrics.image_quality import psnr, ssim
from v2l_jax.metrics.results import Result, mean
from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tokenizers.base import TokenStreams, VisualTokenizer
from v2l_jax.towers import vgg
from v2l_jax.towers.inception import inception_outputs, load_inception


def in_batches(run: Run, function: Callable, *arrays: np.ndarray) -> Any:
    """Applies a compiled function to all rows, `evaluate.batch_size` at a time over the mesh, in
    one shape.

    Args:
      run: the run.
      function: arrays of a batch → a tree of arrays with a row for each of its rows.
      *arrays: as many rows each.

    Returns:
      The tree, numpy, with the rows of all batches.
    """
    size = -(-run.config.evaluate.batch_size // run.mesh.size) * run.mesh.size
    parts = []
    for start in range(0, len(arrays[0]), size):
        rows = [array[start : start + size] for array in arrays]
        filled = tuple(
            np.concatenate([row, np.repeat(row[:1], size - len(row), 0)]) for row in rows
        )
        result = function(*shard_batch(filled, run.mesh))
        parts.append(jax.tree.map(lambda x: np.asarray(x)[: len(rows[0])], result))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def check_local_words(run: Run, task: str) -> None:
    """Checks that a task of local words has some.

    Args:
      run: the run.
      task: its name.

    Raises:
      ConfigError: the run's tokenizer writes no stream "local" of the local codebook's words.
    """
    if run.tokenizer.word_streams.get("local") != "local":
        raise ConfigError(
            f"the task {task} wants one map of local words an image, which the tokenizer "
            f"{run.config.model.kind} does not write; take it out of config.evaluate.tasks"
        )


def to_words(
    run: Run,
    images: Float[np.ndarray, "images side side 3"],
    image_embedding: Float[np.ndarray, "images dim"],
) -> Int[np.ndarray, "images h w"]:
    """Local words of pictures in [-1, 1], by the run's tokenizer; `image_embedding` are the tower's
    vectors of them.
    """
    trained = run.trained
    names = ("image", "image_embedding")[: len(trained.tokenizer.input_shapes(1))]

    def local_ids(*arrays: Array) -> Array:
        batch = dict(zip(names, arrays, strict=True))
        return _encode(trained.tokenizer, trained.variables, batch)["local"]

    return in_batches(run, local_ids, *(images, image_embedding)[: len(names)])


def from_words(run: Run, tokens: TokenStreams) -> Float[np.ndarray, "images side side 3"]:
    """Pictures that token ids decode to, clipped to [-1, 1]."""
    trained, names = run.trained, list(tokens)

    def picture(*ids: Array) -> Array:
        streams = dict(zip(names, ids, strict=True))
        return jnp.clip(_decode(trained.tokenizer, trained.variables, streams), -1, 1)

    return in_batches(run, picture, *tokens.values())


@functools.partial(jax.jit, static_argnames="tokenizer")
def _encode(tokenizer: VisualTokenizer, variables: Any, batch: dict[str, Array]) -> TokenStreams:
    return tokenizer.encode(variables, batch)


@functools.partial(jax.jit, static_argnames="tokenizer")
def _decode(tokenizer: VisualTokenizer, variables: Any, tokens: TokenStreams) -> Array:
    return tokenizer.decode(variables, tokens)


@dataclasses.dataclass(frozen=True)
class PictureQuality:
    """Judges pictures by what they should look like.

    Attributes:
      run: the run.
      originals: in [-1, 1].
      inception: weights of FID's Inception, as `loading.locate` finds them; "" leaves FID out.
    """

    run: Run
    originals: Float[np.ndarray, "images side side 3"]
    inception: str = ""

    def __call__(self, pictures: Float[np.ndarray, "images side side 3"]) -> list[Result]:
        """PSNR, SSIM, LPIPS (where `train.perceptual` names its weights) and FID (where there is an
        Inception).

        The mean PSNR leaves out pictures that equal their original, whose PSNR is infinite.
        """
        scores = in_batches(
            self.run, functools.partial(_scores, self.run.lpips), self.originals, pictures
        )
        rows = [mean(metric, values[np.isfinite(values)]) for metric, values in scores.items()]
        if self.inception:
            rows.append(
                frechet_inception_distance(
                    self._original_features, self._features(pictures), paired=True
                )
            )
        return rows

    @functools.cached_property
    def _inception_params(self) -> Any:
        return load_inception(loading.locate(self.inception))

    @functools.cached_property
    def _original_features(self) -> Float[np.ndarray, "images features"]:
        return self._features(self.originals)

    def _features(
        self, pictures: Float[np.ndarray, "images side side 3"]
    ) -> Float[np.ndarray, "images features"]:
        mesh = self.run.mesh
        size = -(-self.run.config.evaluate.batch_size // mesh.size) * mesh.size
        return inception_outputs(self._inception_params, to_uint8(pictures), mesh, size).features


@jax.jit
def _scores(lpips: Any, images: Array, pictures: Array) -> dict[str, Array]:
    scores = {"psnr": psnr(images, pictures), "ssim": ssim(images, pictures)}
    return scores if lpips is None else scores | {"lpips": vgg.lpips(lpips, images, pictures)}


def save_pictures(folder: pathlib.Path, pictures: Float[np.ndarray, "images side side 3"]) -> None:
    """Keeps pictures in [-1, 1] as 0.png, 1.png, …"""
    for i, picture in enumerate(to_uint8(pictures)):
        with atomic_write(folder / f"{i}.png") as path:
            Image.fromarray(picture).save(path, format="PNG")


def read_pictures(folder: pathlib.Path) -> list[UInt8[np.ndarray, "side side 3"]]:
    """What `save_pictures` kept, in order; nothing where there is no such folder."""
    paths = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    return [decode_image(path) for path in paths]
