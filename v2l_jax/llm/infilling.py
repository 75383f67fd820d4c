"""Greedy answers of which some tokens are given and the others predicted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from v2l_jax.errors import DataError
from v2l_jax.llm.llama import Llama, with_room
from v2l_jax.llm.lora import Adapters
from v2l_jax.parallel.mesh import batch_shards, shard_batch
from v2l_jax.progress import progress_bar


def fill_in(
    model: Llama,
    params: Any,
    questions: Int[np.ndarray, "images length"],
    given: Int[np.ndarray, "images n"],
    masks: Bool[np.ndarray, "images n"],
    allowed: Int[np.ndarray, " words"],
    *,
    batch_size: int,
    adapters: Adapters | None = None,
    mesh: Mesh | None = None,
    description: str = "filling in",
) -> Int[np.ndarray, "images n"]:
    """The likeliest allowed token where one is hidden, knowing the question and all tokens before
    it, given or predicted.

    Args:
      model: the language model.
      params: its parameters, placed on the mesh.
      questions: token ids of what comes before the answer.
      given: token ids of the answer; what is hidden is not looked at.
      masks: what is hidden.
      allowed: token ids that may be predicted.
      batch_size: rows at a time, rounded up to the mesh.
      adapters: scaled changes of the model (`lora.scaled`); None for none.
      mesh: batches are split over it; None is one device.
      description: for the progress bar.

    Returns:
      Indices into `allowed` of the likeliest token at every position, hidden or not.

    Raises:
      DataError: the model's logits are not finite.
    """
    shards = batch_shards(mesh) if mesh else 1
    size = -(-min(batch_size, len(given)) // shards) * shards
    filled = []
    for start in progress_bar(range(0, len(given), size), description, "batch"):
        rows = np.arange(start, start + size) % len(given)
        batch = (questions[rows], given[rows], masks[rows])
        batch = shard_batch(batch, mesh) if mesh else batch
        answer = np.asarray(_fill_in(model, params, adapters, jnp.asarray(allowed), *batch))
        if (answer < 0).any():
            raise DataError(
                "the language model's logits are not finite (NaN or infinity), so they choose no "
                "token; its weights or adapters may be damaged, or a fast type overflows: try "
                "--config.llm_options.dtype=float32"
            )
        filled.append(answer[: len(given) - start])
    return np.concatenate(filled)


@functools.partial(jax.jit, static_argnums=0)
def _fill_in(
    model: Llama,
    params: Any,
    adapters: Adapters | None,
    allowed: Int[Array, " words"],
    questions: Int[Array, "images length"],
    given: Int[Array, "images n"],
    masks: Bool[Array, "images n"],
) -> Int[Array, "images n"]:
    images, start = questions.shape
    apply = functools.partial(model.apply, {"params": params})
    forward = functools.partial(apply, adapters=adapters)
    hidden, cache = forward(
        questions, jnp.broadcast_to(jnp.arange(start), questions.shape), keep=True
    )

    def step(carry, xs):
        hidden, cache = carry
        position, given, mask = xs
        logits = jnp.asarray(apply(hidden, method="logits"))
        permitted = logits[:, allowed]
        finite = jnp.isfinite(permitted.max(-1))
        word = jnp.where(finite, permitted.argmax(-1), -1)
        token = jnp.where(mask, allowed[jnp.maximum(word, 0)], given)
        positions = jnp.full((images, 1), start + position)
        hidden, cache = forward(token[:, None], positions, (), cache)
        return (hidden[:, 0], cache), word

    n = given.shape[1]
    carry = (hidden[:, -1], with_room(cache, n))
    return lax.scan(step, carry, (jnp.arange(n), given.T, masks.T))[1].T
