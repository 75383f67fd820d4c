"""When the projector is moved to the encoder's features, beside its gradient."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float

from v2l_jax.tokenizers.projector_fit import (
    Projector,
    fit_projector,
    recenter_projector,
    revive_words,
)
from v2l_jax.training.accumulation import accumulate


@dataclasses.dataclass(frozen=True)
class ProjectorUpkeep:
    """Remedies of `tokenizers.projector_fit`, each on the features of the batch of every so many
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
        projector: Projector,
        used: Bool[Array, " words"] | None,
        words: Float[Array, "words dim"],
        step: jax.Array,
        encode: Callable[[jax.Array], jax.Array],
        image: Float[Array, "b h w 3"],
        parts: int,
    ) -> tuple[Projector, Bool[Array, " words"] | None]:
        """Moves the projector where that is due.

        Args:
          projector: after the gradient's update.
          used: which words a token chose since the last revival; None where none is revived.
          words: frozen local codebook.
          step: int32 scalar, training steps done before this one.
          encode: images → features as the quantizer sees them, [b, h, w, dim].
          image: the step's batch.
          parts: the images are encoded in so many parts.

        Returns:
          The projector, and `used` with nothing in use after a revival.
        """

        def where(
            due: jax.Array, move: Callable[[Projector, jax.Array], Projector], projector: Projector
        ) -> Projector:
            def moved() -> Projector:
                visit = lambda carry, image: (carry, (), encode(image))
                features = accumulate(visit, None, image, parts)[2]
                return move(projector, features.reshape(-1, features.shape[-1]))

            return jax.lax.cond(due, moved, lambda: projector)

        if self.fit_every:
            due = (step % self.fit_every == 0) & (step < self.fit_until)
            projector = where(due, lambda _, features: fit_projector(words, features), projector)
        if self.recenter_every:
            due = step % self.recenter_every == 0
            projector = where(
                due, lambda old, features: recenter_projector(old, words, features), projector
            )
        if self.revive_every:
            assert used is not None, "revival wants to know which words were used"
            due, seen = (step % self.revive_every == 0) & (step > 0), used
            projector = where(
                due, lambda old, features: revive_words(old, words, features, seen), projector
            )
            used = used & ~due
        return projector, used
