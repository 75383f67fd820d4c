"""How much of a codebook a tokenizer uses, from counts summed over batches and devices."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Real


@dataclasses.dataclass(frozen=True)
class CodebookUsage:
    """Summary of how often each word was chosen.

    Attributes:
      words: size of the codebook.
      tokens: tokens counted.
      used: words chosen at least once.
      fraction: used / words, in [0, 1].
      perplexity: exp of the entropy (in nats) of the words' frequencies: 1 if one word does all,
        `words` if all are equally frequent (van den Oord et al. 2017); 0 without tokens.
      dead: indices of the words never chosen.
    """

    words: int
    tokens: int
    used: int
    fraction: float
    perplexity: float
    dead: tuple[int, ...]


def count_words(indices: Int[Array | np.ndarray, "*shape"], words: int) -> Int32[Array, "words"]:
    """Histogram of codebook indices; jittable, `words` static. Negative and too large indices are
    not counted.
    """
    flat = jnp.asarray(indices).ravel()
    inside = (flat >= 0) & (flat < words)
    return jnp.zeros(words, jnp.int32).at[jnp.where(inside, flat, words)].add(1, mode="drop")


def summarise(counts: Real[Array | np.ndarray, "words"]) -> CodebookUsage:
    """Usage, perplexity and dead words from counts summed over a data set."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    chosen = counts > 0
    frequency = counts[chosen] / max(total, 1)
    return CodebookUsage(
        words=len(counts),
        tokens=int(total),
        used=int(chosen.sum()),
        fraction=float(chosen.mean()),
        perplexity=float(np.exp(-np.sum(frequency * np.log(frequency)))) if total else 0.0,
        dead=tuple(np.flatnonzero(~chosen).tolist()),
    )
