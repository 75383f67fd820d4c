"""How near words are to their image in an image-text tower's space: the columns of Table 2 (Zhu et
al. 2024).

A CLIP score here is a plain cosine, as in that table; Hessel et al. 2021 multiply it by 2.5. In the
space of a tower that is not a CLIP the same numbers must go by another name.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from v2l_jax.ops.batches import in_batches
from v2l_jax.ops.nearest import extreme_products
from v2l_jax.ops.unit_vectors import unit_vectors


class VocabularyScores(NamedTuple):
    """Cosines between each image and all words of a vocabulary: the highest, the lowest, and the
    mean over words.
    """

    best: Float[np.ndarray, " images"]
    worst: Float[np.ndarray, " images"]
    mean: Float[np.ndarray, " images"]


def pair_scores(
    images: Float[np.ndarray, "pairs dim"], texts: Float[np.ndarray, "pairs dim"]
) -> Float[np.ndarray, " pairs"]:
    """Cosine of each image with its text, in [-1, 1]; vectors of any length but 0."""
    return np.einsum("nd,nd->n", unit_rows(images), unit_rows(texts))


def word_scores(
    images: Float[np.ndarray, "images dim"],
    vocabulary: Float[np.ndarray, "words dim"],
    ids: Int[np.ndarray, "images k"],
) -> Float[np.ndarray, " images"]:
    """CLIP score of each image: the mean cosine of the image and its k words, in [-1, 1].

    Args:
      images: the tower's image vectors.
      vocabulary: the tower's text vectors, of any length.
      ids: rows of `vocabulary` that stand for each image.
    """
    vectors, words = unit_rows(images), unit_rows(vocabulary)
    return np.mean(
        [np.einsum("nd,nd->n", vectors, words[column]) for column in ids.T],
        axis=0,
        dtype=np.float32,
    )


def vocabulary_scores(
    images: Float[np.ndarray, "images dim"],
    vocabulary: Float[np.ndarray, "words dim"],
    image_block: int = 512,
    word_block: int = 8192,
) -> VocabularyScores:
    """The best, worst and mean cosine of each image with a vocabulary, for `relative_scores`.

    Memory holds `image_block · word_block` cosines, never [images, words].

    Args:
      images: the tower's image vectors.
      vocabulary: the tower's text vectors of every word that could have been chosen.
      image_block, word_block: images and words compared at a time.
    """
    vectors, words = unit_rows(images), unit_rows(vocabulary)
    blocks = math.ceil(len(words) / word_block)
    size = math.ceil(len(words) / blocks)
    # Rows repeated to fill the last block change neither the highest nor the lowest cosine.
    padded = jnp.asarray(
        np.pad(words, ((0, blocks * size - len(words)), (0, 0)), mode="edge").reshape(
            blocks, size, -1
        )
    )
    best, worst = in_batches(
        lambda block: extreme_products(block, padded),
        vectors,
        size=image_block,
        description="comparing with the vocabulary",
    )
    return VocabularyScores(best, worst, vectors @ words.mean(axis=0))


def relative_scores(
    scores: Float[np.ndarray, " images"], bounds: VocabularyScores
) -> Float[np.ndarray, " images"]:
    """The score divided by that of the best possible word, so that 1 is the bound."""
    return scores / bounds.best


def normalized_scores(
    scores: Float[np.ndarray, " images"], bounds: VocabularyScores
) -> Float[np.ndarray, " images"]:
    """The score scaled linearly so that the worst possible word has 0 and the best has 1 (CLIP-R:
    SPAE, Yu et al. 2023, equation 6).
    """
    return (scores - bounds.worst) / (bounds.best - bounds.worst)


def unit_rows(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Rows divided by their length, float32; a row of zeros stays one."""
    return unit_vectors(np.asarray(vectors, np.float32), float(np.finfo(np.float32).tiny))
