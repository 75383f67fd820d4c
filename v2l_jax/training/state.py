"""Everything a training step changes, as one pytree."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from v2l_jax.training.spikes import SpikeState

_NAMES = {"memory": "used_words"}  # what checkpoints called it first: V2L's words in use


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, statistics and optimizer states of the tokenizer and its discriminator.

    Fields are pytrees of arrays; the same structure also carries shardings or abstract shapes, so
    they are not typed further. Frozen things (codebooks, towers, LPIPS) are not here: they are
    given to the step beside the state.

    Attributes:
      step: int32 scalar, number of finished steps.
      params: tokenizer parameters that train.
      disc_params: discriminator parameters.
      disc_batch_stats: the discriminator's running BatchNorm statistics.
      opt_state: optimizer state of `params`.
      disc_opt_state: optimizer state of `disc_params`.
      rng: raw uint32[2] PRNG key (`jax.random.PRNGKey`); fold in `step` before use.
      ema_params: moving average of `params`; None where none is kept.
      spikes: `training.spikes.SpikeState`; None where no step is left out.
      memory: what the tokenizer remembers besides its parameters; None where that is nothing.
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
    memory: Any = None

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate and keep: the moving average where there is one."""
        return self.params if self.ema_params is None else self.ema_params

    def replace(self, **changes: Any) -> "TrainState":
        """The state with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def variables(self, params: Any, frozen: dict[str, Any]) -> dict[str, Any]:
        """The tokenizer's collections, with these parameters; `frozen` as the step gets it."""
        memory = {} if self.memory is None else {"memory": self.memory}
        return {"params": params, "frozen": frozen["model"]} | memory

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        """Leaves by the names that they have in checkpoints."""
        names = [_NAMES.get(field.name, field.name) for field in dataclasses.fields(self)]
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(n), v) for n, v in zip(names, values)], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Sequence[Any]) -> "TrainState":
        """The inverse of `tree_flatten_with_keys`."""
        return cls(*children)

    @classmethod
    def create(
        cls,
        variables: Any,
        disc_variables: Any,
        tx: optax.GradientTransformation,
        disc_tx: optax.GradientTransformation,
        rng: jax.Array,
        ema: bool = False,
        spikes: bool = False,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
          variables: the tokenizer's collections "params" and, where it has one, "memory".
          disc_variables: the discriminator's variables: collections "params" and "batch_stats".
          tx: optimizer of the tokenizer.
          disc_tx: optimizer of the discriminator.
          rng: raw PRNG key, uint32[2].
          ema: keep a moving average of `params`, which starts as a copy of them.
          spikes: remember gradient norms.
        """
        params = variables["params"]
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
            memory=variables.get("memory"),
        )
