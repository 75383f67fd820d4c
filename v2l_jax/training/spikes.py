"""Steps whose gradient is suddenly many times its usual length are left out, and counted."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

_MEMORY = 0.98


@struct.dataclass
class SpikeState:
    """What the guard remembers; like `TrainState` it also carries shardings and shapes.

    Attributes:
      usual_norm: float32 scalar, running mean of gradient norms; 0 before the first.
      skipped: int32 scalar, steps left out so far.
    """

    usual_norm: Any
    skipped: Any

    @classmethod
    def create(cls) -> "SpikeState":
        """Before the first step."""
        return cls(usual_norm=jnp.zeros(()), skipped=jnp.zeros((), jnp.int32))


@dataclasses.dataclass(frozen=True)
class SpikeGuard:
    """Which gradients are spikes.

    Attributes:
      factor: a norm above so many times the usual one is a spike. A spike enters the running mean
        as this multiple, so a lasting rise is followed, not refused for ever.
      start: steps before the first that may be left out.
    """

    factor: float
    start: int = 100

    def judge(
        self, state: SpikeState, step: Int[Array, ""], norm: Float[Array, ""]
    ) -> tuple[Bool[Array, ""], SpikeState]:
        """Whether to leave out this step, and what to remember. A norm that is not finite is no
        spike: training stops on it.
        """
        limit = self.factor * state.usual_norm
        spike = (step >= self.start) & (norm > limit) & jnp.isfinite(norm)
        known = jnp.where(spike, limit, norm)
        usual = jnp.where(step == 0, known, _MEMORY * state.usual_norm + (1.0 - _MEMORY) * known)
        return spike, SpikeState(usual_norm=usual, skipped=state.skipped + spike.astype(jnp.int32))
