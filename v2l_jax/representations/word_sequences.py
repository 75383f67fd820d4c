"""From the words of an image's patches to the sequence that is written: in order, without
repetitions, as a bag, or a word a cluster of patches.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from v2l_jax.ops.unit_vectors import unit_vectors

Sequence_ = list[tuple[int, tuple[int, ...]]]
"""Words in the order they are written, each with the numbers, in raster order, of its patches."""


def in_order(words: Int[np.ndarray, " patches"]) -> Sequence_:
    """Every patch's word, in raster order."""
    return [(int(word), (i,)) for i, word in enumerate(words)]


def run_length(words: Int[np.ndarray, " patches"]) -> Sequence_:
    """Words in raster order, neighbours of the same word written once."""
    starts = np.flatnonzero(np.diff(words, prepend=words[0] - 1))
    ends = np.append(starts[1:], len(words))
    return [(int(words[a]), tuple(range(a, b))) for a, b in zip(starts, ends)]


def bag(words: Int[np.ndarray, " patches"]) -> Sequence_:
    """Each word once, the most frequent first; of equals the lowest number first."""
    found, counts = np.unique(words, return_counts=True)
    order = np.lexsort((found, -counts))
    return [(int(found[i]), tuple(np.flatnonzero(words == found[i]).tolist())) for i in order]


def clusters(
    features: Float[np.ndarray, "patches dim"],
    threshold: float,
    nearest: Callable[[Float[np.ndarray, "clusters dim"]], Int[np.ndarray, " clusters"]],
) -> Sequence_:
    """A word a cluster of similar patches (DiVT, arXiv 2605.17954): the nearest to its mean.

    The patch with the most patches above the threshold of cosine similarity takes these as its
    cluster, then the next among those left; at the end every patch goes to the most similar centre.

    Args:
      features: of an image's patches.
      threshold: θ, between -1 and 1.
      nearest: features → words.
    """
    unit = unit_vectors(features, 1e-12)
    similarity = unit @ unit.T
    centres = _centres(similarity > threshold)
    owner = similarity[:, centres].argmax(1)
    owner[centres] = np.arange(len(centres))
    members = [np.flatnonzero(owner == c) for c in range(len(centres))]
    words = nearest(np.stack([features[m].mean(0) for m in members]).astype(np.float32))
    return [(int(w), tuple(m.tolist())) for w, m in zip(words, members)]


def _centres(alike: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, " clusters"]:
    """The patches that are picked, in raster order; the first of equal degree is."""
    alike = alike | np.eye(len(alike), dtype=bool)
    free, degree, picked = np.ones(len(alike), bool), alike.sum(1), []
    while free.any():
        at = int(np.where(free, degree, -1).argmax())
        picked.append(at)
        free &= ~alike[at]
    return np.sort(picked)


def boxes(cells: tuple[int, ...], grid: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """Where patches lie: (left, top, right, bottom), each from 0 to 1 of the square image."""
    rows, columns = grid
    return [
        (
            cell % columns / columns,
            cell // columns / rows,
            (cell % columns + 1) / columns,
            (cell // columns + 1) / rows,
        )
        for cell in cells
    ]
