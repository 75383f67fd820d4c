"""Stage 3 of the codebook: keep the words that some training image is near to (Zhu et al. 2024,
section 3.2).
"""

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from v2l_jax.ops.batches import in_batches
from v2l_jax.ops.nearest import top_products

_WORD = re.compile(r"[^\W_]+")
_FUNCTION_WORDS = frozenset("a an and at by for from in is of on or that the to with".split())


def count_hits(
    image_features: Float[np.ndarray, "images dim"],
    embeddings: Float[np.ndarray, "words dim"],
    top: int = 5,
    batch_size: int = 256,
) -> Int[np.ndarray, " words"]:
    """Counts the images that have each word among their `top` by inner product.

    Args:
      image_features: L2-normalised tower features of the training images.
      embeddings: candidate words' vectors, not normalised.
      top: words counted an image.
      batch_size: images compared at once; memory holds `batch_size · words` floats.

    Returns:
      int64, one count for each word.
    """
    words = jnp.asarray(embeddings)
    top = min(top, len(embeddings))
    nearest = in_batches(
        lambda block: top_products(block, words, top), image_features, size=batch_size
    )
    return np.bincount(nearest.ravel(), minlength=len(embeddings))


def keep_frequent(counts: Int[np.ndarray, " words"], min_hits: int = 1) -> Int[np.ndarray, " kept"]:
    """Indices of the words hit at least `min_hits` times, in codebook order (paper: 1; published
    code: 101).
    """
    return np.flatnonzero(counts >= min_hits)


def first_spellings(texts: Sequence[str]) -> Int[np.ndarray, " kept"]:
    """Indices of the first text of each `spelling`, in order.

    An LLM's vocabulary holds " Dog", " dog" and "dogs", its bigrams " dog,". To a text tower they
    are one word, and would fill an image's five nearest words with one. The published code keeps
    them all.
    """
    return np.unique(spelling_groups(texts), return_index=True)[1]


def spelling_groups(texts: Sequence[str]) -> Int[np.ndarray, " words"]:
    """A number for each text, equal for texts of one `spelling`; counted in order of appearance."""
    numbers: dict[str, int] = {}
    return np.asarray(
        [numbers.setdefault(spelling(text), len(numbers)) for text in texts], np.int32
    )


def spelling(text: str) -> str:
    """The text in lower case, without punctuation, function words and a word's last s.

    Words of up to three letters, and those that end in ss, keep their s. Text without another word
    stands for itself, without the white space around it.
    """
    words = [word for word in _WORD.findall(text.casefold()) if word not in _FUNCTION_WORDS]
    singular = [
        word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word
        for word in words
    ]
    return " ".join(singular) or text.strip()
