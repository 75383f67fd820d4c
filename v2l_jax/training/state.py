"""Everything a training step changes, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from v2l_jax.training.spikes import SpikeState


class TrainState(struct.PyTreeNode):
    """Parameters, statistics and optimizer states of the tokenizer and its discriminator.

    Fields are pytrees of arrays; the same structure also carries shardings or abstract shapes, so
    they are not typed further. Frozen things (word vectors, towers, LPIPS) are not here: they are
    given to the step beside the state.

    Attributes:
      step: int32 scalar, number of finished steps.
      params: tokenizer parameters that train (encoder, decoder, projector, quantizer convolutions).
      disc_params: discriminator parameters.
      disc_batch_stats: the discriminator's running BatchNorm statistics.
      opt_state: optimizer state of `params`.
      disc_opt_state: optimizer state of `disc_params`.
      rng: raw uint32[2] PRNG key (`jax.random.PRNGKey`); fold in `step` before use.
      ema_params: moving average of `params`; None where none is kept.
      spikes: `training.spikes.SpikeState`; None where no step is left out.
      used_words: bool [local words], those that a token chose since the last revival; None where
        none is revived.
    """

    step: Any
    params: Any
    disc_params: Any
    disc_batch_stats: Any
    opt_state: Any
    disc_opt_state: Any
    rng: Any
    ema_params: Any = None
    spikes: Any = None
    used_words: Any = None

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate and keep: the moving average where there is one."""
        return self.params if self.ema_params is None else self.ema_params

    @classmethod
    def create(
        cls,
        params: Any,
        disc_variables: Any,
        tx: optax.GradientTransformation,
        disc_tx: optax.GradientTransformation,
        rng: jax.Array,
        ema: bool = False,
        spikes: bool = False,
        count_words: int = 0,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
          params: the tokenizer's "params" collection.
          disc_variables: the discriminator's variables: collections "params" and "batch_stats".
          tx: optimizer of the tokenizer.
          disc_tx: optimizer of the discriminator.
          rng: raw PRNG key, uint32[2].
          ema: keep a moving average of `params`, which starts as a copy of them.
          spikes: remember gradient norms.
          count_words: remember which of so many local words are in use.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            disc_params=disc_variables["params"],
            disc_batch_stats=disc_variables["batch_stats"],
            opt_state=tx.init(params),
            disc_opt_state=disc_tx.init(disc_variables["params"]),
            rng=rng,
            ema_params=jax.tree.map(jnp.copy, params) if ema else None,
            spikes=SpikeState.create() if spikes else None,
            used_words=jnp.zeros(count_words, bool) if count_words else None,
        )
