"""Next-token cross-entropy on chosen tokens of a text, without ever holding all their logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def target_loss(
    to_logits: Callable[[Array], Array],
    hidden: Float[Array, "batch length width"],
    tokens: Int[Array, "batch length"],
    targets: Int[Array, "batch targets"],
    chunk: int = 256,
    labels: Int[Array, "batch targets"] | None = None,
) -> Float[Array, ""]:
    """Mean over the target tokens of -log p(token | tokens before it), in nats, float32.

    Logits are made of `chunk` tokens at a time, and again when gradients are taken, so that
    [tokens, vocab] is never whole.

    Args:
      to_logits: [n, width] → [n, vocab].
      hidden: final hidden states; the state before a target predicts it.
      tokens: ids.
      targets: positions along the length, at least 1, of the tokens that count; -1 for none. The
        mean is 0 where there are none.
      chunk: target tokens whose logits are held at once.
      labels: what shall be predicted there in place of the tokens that stand there; None: these.
    """
    real = targets >= 1
    at = jnp.where(real, targets, 1)
    states = jnp.take_along_axis(hidden, (at - 1)[..., None], axis=1).reshape(-1, hidden.shape[-1])
    wanted = jnp.take_along_axis(tokens, at, axis=1) if labels is None else labels
    labels = jnp.where(real, wanted, 0).reshape(-1)
    weights = real.reshape(-1).astype(jnp.float32)
    pad = -len(labels) % chunk
    chunks = jax.tree.map(
        lambda x: jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, chunk, *x.shape[1:]),
        (states, labels, weights),
    )

    @jax.checkpoint
    def chunk_loss(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        states, labels, weights = part
        logits = to_logits(states).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return total + jnp.sum(weights * (jax.nn.logsumexp(logits, axis=1) - chosen)), None

    total, _ = jax.lax.scan(chunk_loss, jnp.zeros(()), chunks)
    return total / jnp.maximum(weights.sum(), 1.0)
