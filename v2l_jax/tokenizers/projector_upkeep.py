"""When the projector is moved to the encoder's features, beside its gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from v2l_jax.tokenizers.projector_fit import (
    Projector,
    fit_projector,
    recenter_projector,
    revive_words,
)
from v2l_jax.tokenizers.v2l import V2LTokenizer
from v2l_jax.training.accumulation import accumulate
from v2l_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class ProjectorUpkeep:
    """Remedies of `tokenizer.projector_fit`, each on the features of the batch of every so many
    steps, in this order; 0 = never.

    Attributes:
      fit_every: a new map, while step < `fit_until`.
      fit_until: see there.
      recenter_every: the learned map, shifted and scaled.
      revive_every: unused words towards their nearest features; unused is what no token chose since
        the last time. Not at step 0.
    """

    fit_every: int = 0
    fit_until: int = 0
    recenter_every: int = 0
    revive_every: int = 0

    def apply(
        self,
        model: V2LTokenizer,
        state: TrainState,
        image: Float[Array, "b h w 3"],
        frozen_words: Any,
        parts: int,
    ) -> TrainState:
        """The state with its projector moved where that is due; the images are encoded in `parts`."""
        step, params, words = state.step, state.params, frozen_words["local_words"]

        def encode(carry: None, image: jax.Array) -> tuple[None, tuple, jax.Array]:
            return (
                carry,
                (),
                model.apply({"params": params, "frozen": frozen_words}, image, method="encode"),
            )

        def where(
            due: jax.Array, move: Callable[[Projector, jax.Array], Projector], projector: Projector
        ) -> Projector:
            def moved() -> Projector:
                features = accumulate(encode, None, image, parts)[2]
                return move(projector, features.reshape(-1, features.shape[-1]))

            return jax.lax.cond(due, moved, lambda: projector)

        projector = params["projector"]
        if self.fit_every:
            due = (step % self.fit_every == 0) & (step < self.fit_until)
            projector = where(due, lambda _, features: fit_projector(words, features), projector)
        if self.recenter_every:
            due = step % self.recenter_every == 0
            projector = where(
                due, lambda old, features: recenter_projector(old, words, features), projector
            )
        if self.revive_every:
            due, used = (step % self.revive_every == 0) & (step > 0), state.used_words
            projector = where(
                due, lambda old, features: revive_words(old, words, features, used), projector
            )
            state = state.replace(used_words=used & ~due)
        return state.replace(params=params | {"projector": projector})
