"""Adam or its large-batch kin, the learning-rate schedule, and which parameters move (Zhu et al.
2024, section 4.1).
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], jax.Array]

OPTIMIZERS = ("adam", "adamw", "lamb", "lars")
SCALINGS = ("none", "linear", "sqrt")


def scaled_rate(learning_rate: float, scaling: str, batch_size: int, base_batch_size: int) -> float:
    """The learning rate for a batch of another size than the one it was chosen for.

    Args:
      learning_rate: what suits `base_batch_size`.
      scaling: "none"; "linear" in the batch size (Goyal et al. 2017, for SGD); "sqrt" of it
        (Krizhevsky 2014; Malladi et al. 2022, for Adam).
      batch_size: images a step, over all devices.
      base_batch_size: images a step that `learning_rate` is meant for.
    """
    return (
        learning_rate
        * (batch_size / base_batch_size) ** {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[scaling]
    )


def warmup_cosine(learning_rate: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear from 0 over `warmup_steps`, then half a cosine down to 0 at `total_steps`.

    Args:
      learning_rate: the peak, reached at step `warmup_steps`.
      warmup_steps: 0 for no warm-up.
      total_steps: steps of the whole run; the rate stays 0 beyond.
    """

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        decayed = learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, learning_rate * step / max(warmup_steps, 1), decayed)

    return schedule


def make_optimizer(
    schedule: Schedule,
    kind: str = "adam",
    b1: float = 0.5,
    b2: float = 0.9,
    eps: float = 1e-7,
    trainable: str = ".*",
    late: str = "",
    late_start: int = 0,
    late_scale: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose rate follows the training step, not the number of its own updates.

    The discriminator starts late; both optimizers must still be at the same point of the schedule.
    `update` therefore takes the training step as a keyword argument: `tx.update(grads, opt_state,
    params, step=state.step)`.

    Args:
      schedule: step to learning rate.
      kind: "adam"; "lamb", Adam with each layer's update as long as its weights (You et al. 2020);
        "lars", momentum 0.9 on gradients 0.001 as long as the layer's weights (You et al. 2017).
        Neither decays weights. "adamw" does by 5e-4 on every tensor, with moments 0.9 and 0.95 and
        eps 1e-8 (Liu et al. 2023, LQAE).
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      trainable: regular expression on "/"-joined parameter paths; parameters that it does not match
        stay as they are and get no moments.
      late: regular expression on the same paths; parameters that it matches do not move before
        `late_start`.
      late_start: a training step; 0 lets everything move from the start.
      late_scale: factor on the rate of the late parameters.
    """
    descend = _descend_by(schedule, late, late_start, late_scale)
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    chains = {
        "adam": (adam, descend),
        "adamw": (optax.scale_by_adam(b1=0.9, b2=0.95), optax.add_decayed_weights(5e-4), descend),
        "lamb": (adam, optax.scale_by_trust_ratio(), descend),
        "lars": (
            optax.scale_by_trust_ratio(trust_coefficient=0.001),
            descend,
            optax.trace(decay=0.9),
        ),
    }
    optimizer = optax.chain(*chains[kind])
    if trainable == ".*":
        return optimizer
    transforms = {"train": optimizer, "freeze": optax.set_to_zero()}
    partial = optax.multi_transform(transforms, lambda params: label_parameters(params, trainable))
    return optax.with_extra_args_support(partial)


def label_parameters(params: Any, trainable: str) -> Any:
    """Says "train" or "freeze" for each parameter, by whether `trainable` matches within its
    "/"-joined path.
    """

    def label(path: Any, _: Any) -> str:
        return "train" if re.search(trainable, _name(path)) else "freeze"

    return jax.tree_util.tree_map_with_path(label, params)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _descend_by(
    schedule: Schedule, late: str, late_start: int, late_scale: float
) -> optax.GradientTransformationExtraArgs:
    def update(
        updates: Any, state: Any, params: Any = None, *, step: jax.Array, **unused: Any
    ) -> tuple[Any, Any]:
        del params, unused
        rate = schedule(step)
        late_rate = jnp.where(jnp.asarray(step) < late_start, 0.0, late_scale * rate)

        def descend(path: Any, update: jax.Array) -> jax.Array:
            is_late = bool(late) and re.search(late, _name(path))
            return -(late_rate if is_late else rate) * update

        return jax.tree_util.tree_map_with_path(descend, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
