"""Other vectors for the words of a run's local codebook than the tower's: what a frozen codebook is
made of, and nothing else, differs.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.kmeans import KMeans, fit
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import ImageTransform
from v2l_jax.errors import ConfigError
from v2l_jax.progress import progress_bar
from v2l_jax.run import loading

_PATCHES_A_WORD = 32  # of those that k-means sees


def with_vectors(
    config: ConfigDict, workdir: pathlib.Path, words: Codebook, kind: str, scaled: bool
) -> Codebook:
    """The same words with vectors of another kind, made once and kept in the workdir.

    Args:
      config: the whole experiment.
      workdir: the run's folder.
      words: the local codebook.
      kind: "tower", as they are; "random", independent normal numbers; "llm", rows of the language
        model's embedding; "patches", k-means of the training images' patches, as large as a token
        of the run's tokenizer, in the order of k-means.
      scaled: bring the mean squared length to one.

    Raises:
      ConfigError: a word of several tokens has no row in the language model's embedding.
    """
    if kind == "tower":
        return words
    sizes = (config.model.image_size, len(config.model.channel_multipliers))
    name = f"local_{kind}-{len(words)}" + ("-{}-{}".format(*sizes) if kind == "patches" else "")
    path = workdir / "codebook" / f"{name}-seed{config.seed}.safetensors"
    if path.exists():
        made = Codebook.load(path)
    else:
        made = dataclasses.replace(words, embeddings=_MAKE[kind](config, words), tower=kind)
        made.save(path)
    if not scaled:
        return made
    vectors = np.asarray(made.embeddings, np.float32)
    length = np.sqrt(np.mean(np.sum(vectors**2, axis=1)))
    return dataclasses.replace(made, embeddings=vectors / length)


def _random(config: ConfigDict, words: Codebook) -> Float[np.ndarray, "words dim"]:
    rng = np.random.default_rng(config.seed)
    return rng.standard_normal(words.embeddings.shape).astype(np.float32)


def _llm(config: ConfigDict, words: Codebook) -> Float[np.ndarray, "words dim"]:
    if any(len(ids) != 1 for ids in words.token_ids):
        raise ConfigError("words of several tokens have no row in a language model's embedding")
    table = loading.language_model(config).params["embedding"]
    rows = np.asarray([ids[0] for ids in words.token_ids])
    return np.asarray(table[rows], np.float32)


def _patches(config: ConfigDict, words: Codebook) -> Float[np.ndarray, "words dim"]:
    side = 2 ** (len(config.model.channel_multipliers) - 1)
    patches = patches_of(loading.photos(config).train, config.model.image_size, side)
    options = KMeans(len(words), most_points=_PATCHES_A_WORD, seed=config.seed)
    return fit(patches, options, description="k-means of patches").centres


def patches_of(source: Source, image_size: int, side: int) -> Float[np.ndarray, "patches dim"]:
    """All patches of the centre squares of images in [-1, 1], side · side · 3 numbers each."""
    transform, rng, parts = ImageTransform(image_size), np.random.default_rng(0), []
    count = image_size // side
    for i in progress_bar(range(len(source)), "patches", "image"):
        image = np.asarray(transform(source[i], rng)["image"], np.float32)
        cut = image.reshape(count, side, count, side, 3).swapaxes(1, 2)
        parts.append(cut.reshape(count * count, side * side * 3))
    return np.concatenate(parts)


_MAKE: dict[str, Callable[[ConfigDict, Codebook], np.ndarray]] = {
    "random": _random,
    "llm": _llm,
    "patches": _patches,
}
KINDS = ("tower", *_MAKE)
