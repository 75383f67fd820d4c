"""One training step of LoRA adapters on a frozen language model: next-token cross-entropy on the
targets of each text.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from v2l_jax.llm.llama import Llama
from v2l_jax.llm.lora import Adapters, Lora, init_adapters, scaled
from v2l_jax.llm.text_loss import target_loss
from v2l_jax.training.optimizer import warmup_cosine

Batch = dict[str, Any]
AdapterStep = Callable[["AdapterState", Batch, Any], tuple["AdapterState", dict[str, Array]]]


@struct.dataclass
class AdapterState:
    """Everything a step changes; the language model is not in it.

    Attributes:
      step: int32 scalar, finished steps.
      adapters: float32, see `lora.Adapters`.
      opt_state: optimizer state of the adapters.
    """

    step: Any
    adapters: Any
    opt_state: Any


def adapter_optimizer(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) with linear warm-up, half a cosine down to 0, and gradients clipped
    to a global norm.
    """
    schedule = warmup_cosine(learning_rate, warmup_steps, total_steps)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.adamw(schedule, weight_decay=weight_decay)
    )


def initial_state(
    key: Array, model: Llama, lora: Lora, tx: optax.GradientTransformation
) -> AdapterState:
    """The state before the first step: adapters that change nothing."""
    adapters = init_adapters(key, model.config, lora)
    return AdapterState(jnp.zeros((), jnp.int32), adapters, tx.init(adapters))


def adapter_loss(
    model: Llama,
    params: Any,
    adapters: Adapters | None,
    scale: float,
    batch: Batch,
    chunk: int = 256,
) -> Float[Array, ""]:
    """Mean cross-entropy of the batch's targets, in nats, under the adapted model.

    Args:
      model: the network.
      params: its frozen parameters.
      adapters: from `init_adapters` or `peft_files.load_adapters`; None is the frozen model.
      scale: `Lora.scale`.
      batch: {"tokens": int32 [batch, length], -1 pads on the right; "targets": int32 [batch,
        targets], positions of the tokens that count, -1 for none}.
      chunk: target tokens whose logits are held at once.
    """
    tokens, targets = jnp.asarray(batch["tokens"]), jnp.asarray(batch["targets"])
    positions = jnp.where(tokens >= 0, jnp.arange(tokens.shape[1], dtype=jnp.int32), -1)
    variables = {"params": params}
    ids = jnp.maximum(tokens, 0)
    changes = None if adapters is None else scaled(adapters, scale)
    hidden, _ = model.apply(variables, ids, positions, adapters=changes)
    return target_loss(
        lambda x: model.apply(variables, x, method="logits"), hidden, ids, targets, chunk
    )


def make_adapter_step(model: Llama, lora: Lora, tx: optax.GradientTransformation) -> AdapterStep:
    """Returns the compiled step `(state, batch, params) -> (state, metrics)`; the given state is
    donated.

    Metrics are float32 scalars: loss, and gradient_norm before clipping. Batches are as in
    `adapter_loss`; `params` are the frozen parameters of `model`.
    """

    def step(
        state: AdapterState, batch: Batch, params: Any
    ) -> tuple[AdapterState, dict[str, Array]]:
        loss, grads = jax.value_and_grad(
            lambda adapters: adapter_loss(model, params, adapters, lora.scale, batch)
        )(state.adapters)
        updates, opt_state = tx.update(grads, state.opt_state, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        metrics = {"loss": loss, "gradient_norm": optax.global_norm(grads)}
        return AdapterState(state.step + 1, adapters, opt_state), metrics

    return jax.jit(step, donate_argnums=0)
