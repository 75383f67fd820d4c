"""Drawing the next token: temperature, top-k, nucleus; the same draw for any batch composition and
mesh.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from v2l_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn; cuts are made in the order temperature, top-k, top-p.

    Attributes:
      temperature: logits are divided by it; above 0.
      top_k: only the k likeliest tokens are drawn; None for all.
      top_p: of these only the likeliest whose probabilities reach it together, at least one
        (nucleus sampling: Holtzman et al., arXiv 1904.09751); in (0, 1].
      seed: with a prompt's index and the step, all that a draw depends on beside the logits.

    Raises:
      ConfigError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(
                f"sampling temperature {self.temperature} must be above 0; for greedy decoding pass no sampling"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(
                f"sampling top_k {self.top_k} must be at least 1, or None for all tokens"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling top_p {self.top_p} must be above 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"sampling seed {self.seed} must be from 0 to 2**31 - 1")


def gumbel_noise(
    seed: Int[Array, ""], indices: Int[Array, " rows"], step: Int[Array, ""] | int, vocab_size: int
) -> Float[Array, "rows vocab"]:
    """Independent noise for every token id of a row, a function of (seed, the row's prompt index,
    step) alone.
    """
    start = jax.random.key(seed)

    def one(index: Array) -> Array:
        return jax.random.gumbel(
            jax.random.fold_in(jax.random.fold_in(start, index), step), (vocab_size,)
        )

    return jax.vmap(one)(indices)


def draw(
    logits: Float[Array, "rows choices"], noise: Float[Array, "rows choices"], sampling: Sampling
) -> Int[Array, " rows"]:
    """Draws one choice a row by the Gumbel-max trick.

    Args:
      logits: of each choice; -inf for those that are forbidden.
      noise: Gumbel noise of each choice. It belongs to the token, not to its rank: nearly equal
        logits in another order (another mesh) still draw the same token.
      sampling: temperature and cuts.
    """
    scores = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p == 1.0:
        return (scores + noise).argmax(-1)
    count = scores.shape[-1] if sampling.top_k is None else min(sampling.top_k, scores.shape[-1])
    best, at = lax.top_k(scores, count)
    if sampling.top_p < 1.0:
        probabilities = jax.nn.softmax(best)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        best = jnp.where(likelier < sampling.top_p, best, -jnp.inf)
    drawn = (best + jnp.take_along_axis(noise, at, axis=-1)).argmax(-1)
    return jnp.take_along_axis(at, drawn[:, None], axis=-1)[:, 0]
