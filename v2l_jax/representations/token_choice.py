"""Which of an image's nearest words are shown: all, one a spelling, or diverse ones."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.filter import spelling_groups
from v2l_jax.ops.batches import in_batches


@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """How an image's words are picked; the defaults are the paper's way, the nearest words.

    Attributes:
      tokens: words an image, at most.
      merge: never show two words of one spelling, see `codebook.filter.spelling`.
      mmr: λ of maximal marginal relevance (Carbonell & Goldstein 1998): each further word maximises
        λ · relevance − (1 − λ) · similarity to the most similar word already picked; 1 is relevance
        alone.
      adaptive: end the list before the first word whose relevance is below this share of the first
        one's; 0 keeps all.
    """

    tokens: int = 5
    merge: bool = False
    mmr: float = 1.0
    adaptive: float = 0.0


def choose_words(
    vectors: Float[np.ndarray, "images dim"],
    embeddings: Float[np.ndarray, "words dim"],
    texts: Sequence[str],
    choice: TokenChoice,
    batch_size: int = 256,
) -> list[tuple[str, ...]]:
    """The words of each image, in the order they were picked.

    Similarity of two vectors is 1 − ½·(Euclidean distance)², which is the cosine where both have
    length one; so relevance alone gives the paper's order, nearest first.

    Args:
      vectors: the tower's image vectors, of length one.
      embeddings: the codebook's vectors; need not have length one.
      texts: the codebook's texts.
      choice: how to pick.
      batch_size: images compared at once; memory is `batch_size · words` floats.
    """
    groups = spelling_groups(texts) if choice.merge else np.arange(len(texts), dtype=np.int32)
    count = min(choice.tokens, int(groups.max()) + 1)
    words, group_of = jnp.asarray(embeddings, jnp.float32), jnp.asarray(groups)
    chosen = []
    pick = lambda block: _pick(block, words, group_of, jnp.float32(choice.mmr), count)
    found = in_batches(pick, np.asarray(vectors, np.float32), size=batch_size)
    for row, scores in zip(*found, strict=True):
        weak = np.flatnonzero((scores[1:] < choice.adaptive * scores[0]) & (choice.adaptive > 0))
        chosen.append(tuple(texts[i] for i in row[: weak[0] + 1 if len(weak) else None]))
    return chosen


def single_words(book: Codebook) -> Codebook:
    """The codebook's unigrams, words of one token."""
    return book.take(np.flatnonzero([len(ids) == 1 for ids in book.token_ids]))


@partial(jax.jit, static_argnames="count")
def _pick(
    images: Float[Array, "batch dim"],
    words: Float[Array, "words dim"],
    groups: Int[Array, " words"],
    mmr: Float[Array, ""],
    count: int,
) -> tuple[Int[Array, "batch count"], Float[Array, "batch count"]]:
    """Greedy picks and their relevance."""
    half_norms = 0.5 * jnp.sum(words**2, axis=1)

    def similarity(to):
        return (
            1
            - 0.5 * jnp.sum(to**2, axis=1, keepdims=True)
            + jnp.dot(to, words.T, precision="highest")
            - half_norms
        )

    relevance = similarity(images)

    def pick(best, allowed, redundancy):
        """Takes a word: its group is used up, and what resembles it becomes redundant."""
        allowed &= groups[None] != groups[best][:, None]
        score = jnp.take_along_axis(relevance, best[:, None], axis=1)[:, 0]
        return (allowed, jnp.maximum(redundancy, similarity(words[best]))), (best, score)

    def step(state, _):
        allowed, redundancy = state
        return pick(
            jnp.argmax(
                jnp.where(allowed, mmr * relevance - (1 - mmr) * redundancy, -jnp.inf), axis=1
            ),
            *state,
        )

    nothing = jnp.ones(relevance.shape, bool), jnp.full(relevance.shape, -jnp.inf)
    state, first = pick(jnp.argmax(relevance, axis=1), *nothing)
    _, rest = jax.lax.scan(step, state, None, length=count - 1)
    ids, scores = (jnp.concatenate([one[None], more]).T for one, more in zip(first, rest))
    return ids, scores
