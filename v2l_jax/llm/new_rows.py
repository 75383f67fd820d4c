"""Rows that are added to a language model's input embedding, and where they start.

A row stands for a visual word. The five starts are those that the literature uses; all but "mean"
and "mean_resizing" are brought to the mean length of the model's own rows, about their mean.
"""

import numpy as np
from jaxtyping import Float

STARTS = ("mean_resizing", "normal", "mean", "projected", "ridge", "aligned")
"""What `config` may name: Hugging Face's `resize_token_embeddings` (the own rows' mean with 1e-9 of
their covariance); N(0, 0.02), as LaVIT; the mean with N(0, 1/√hidden) about it, as LlamaFactory;
the centres themselves, through a random projection; through a ridge regression; through the
language model's own words that an image–text tower is near to."""

_TINY = 1e-9


def mean_resizing(
    own: Float[np.ndarray, "vocab hidden"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "rows hidden"]:
    """Draws from N(mean, 1e-9 · covariance) of the own rows."""
    own = np.asarray(own, np.float64)
    mean = own.mean(0)
    centred = own - mean
    # centredᵀ · N(0, 1/n) has the covariance of the rows
    drawn = rng.normal(size=(count, len(own))) @ centred / len(own) ** 0.5
    return (mean + _TINY**0.5 * drawn).astype(np.float32)


def normal(count: int, hidden: int, rng: np.random.Generator) -> Float[np.ndarray, "rows hidden"]:
    """Draws from N(0, 0.02²)."""
    return rng.normal(scale=0.02, size=(count, hidden)).astype(np.float32)


def about_mean(
    own: Float[np.ndarray, "vocab hidden"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "rows hidden"]:
    """The mean of the own rows, with N(0, 1/√hidden) about it, in units of their spread."""
    own = np.asarray(own, np.float64)
    noise = rng.normal(size=(count, own.shape[1])) / own.shape[1] ** 0.5
    return (own.mean(0) + noise * own.std()).astype(np.float32)


def projected(
    own: Float[np.ndarray, "vocab hidden"],
    centres: Float[np.ndarray, "rows dim"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "rows hidden"]:
    """A random projection of the centres about their mean, which keeps what is near near (Johnson &
    Lindenstrauss 1984), as long as the own rows are.
    """
    centred = np.asarray(centres, np.float64) - np.mean(centres, axis=0)
    matrix = rng.normal(size=(centres.shape[1], own.shape[1])) / own.shape[1] ** 0.5
    return like_own(own, centred @ matrix)


def ridge(
    own: Float[np.ndarray, "vocab hidden"],
    centres: Float[np.ndarray, "rows dim"],
    features: Float[np.ndarray, "pairs dim"],
    embeddings: Float[np.ndarray, "pairs hidden"],
    strength: float = 1.0,
) -> Float[np.ndarray, "rows hidden"]:
    """Centres through the linear map that best takes features to embeddings.

    Args:
      own: the model's rows.
      centres: of the words.
      features: mean features of images.
      embeddings: mean rows of what is said of each of these images.
      strength: of the penalty, in mean squared lengths of the features.
    """
    x = np.asarray(features, np.float64) - np.mean(features, axis=0)
    y = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0)
    penalty = strength * np.mean(np.sum(x**2, axis=1)) * np.eye(x.shape[1])
    matrix = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    return like_own(own, (np.asarray(centres, np.float64) - np.mean(features, axis=0)) @ matrix)


def aligned(
    own: Float[np.ndarray, "vocab hidden"],
    vectors: Float[np.ndarray, "rows dim"],
    word_vectors: Float[np.ndarray, "words dim"],
    word_rows: Float[np.ndarray, "words hidden"],
    count: int = 4,
    temperature: float = 0.05,
) -> Float[np.ndarray, "rows hidden"]:
    """The mean of the rows of the nearest words, weighed by a softmax of their cosines.

    Args:
      own: the model's rows.
      vectors: of the visual words in an image–text space, of length one.
      word_vectors: of the model's words in that space, of length one.
      word_rows: the model's rows of these words.
      count: words that each is the mean of.
      temperature: of the softmax.
    """
    cosines = vectors @ word_vectors.T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(cosines, nearest, axis=1)
    weights = np.exp((chosen - chosen.max(1, keepdims=True)) / temperature)
    weights /= weights.sum(1, keepdims=True)
    mean = np.asarray(own, np.float64).mean(0)
    return like_own(own, np.einsum("rc,rch->rh", weights, word_rows[nearest]) - mean)


def like_own(
    own: Float[np.ndarray, "vocab hidden"], differences: Float[np.ndarray, "rows hidden"]
) -> Float[np.ndarray, "rows hidden"]:
    """The mean of the own rows plus the differences, scaled so that their root mean square length
    is that of the own rows about their mean.
    """
    own = np.asarray(own, np.float64)
    mean = own.mean(0)
    wanted = np.sqrt(np.mean(np.sum((own - mean) ** 2, axis=1)))
    have = np.sqrt(np.mean(np.sum(differences**2, axis=1)))
    return (mean + differences * (wanted / max(have, 1e-12))).astype(np.float32)
