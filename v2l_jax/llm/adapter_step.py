"""One training step of LoRA adapters, and of new rows of the embedding, on a frozen language model:
next-token cross-entropy on the targets of each text.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from v2l_jax.llm.connector import connect
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.lora import Lora, init_adapters, scaled
from v2l_jax.llm.text_loss import target_loss
from v2l_jax.training.optimizer import warmup_cosine

Batch = dict[str, Any]
AdapterStep = Callable[["AdapterState", Batch, Any], tuple["AdapterState", dict[str, Array]]]


@struct.dataclass
class AdapterState:
    """Everything a step changes; the language model is not in it.

    Attributes:
      step: int32 scalar, finished steps.
      adapters: float32, see `lora.Adapters`; with new rows also {"new_rows": {"rows": [rows,
        hidden]}}.
      opt_state: optimizer state of the adapters.
    """

    step: Any
    adapters: Any
    opt_state: Any


NEW_ROWS, CONNECTOR = "new_rows", "connector"
_BESIDE = (NEW_ROWS, CONNECTOR)


def adapter_optimizer(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    rows_rate: float | None = None,
    ema_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) with linear warm-up, half a cosine down to 0, and gradients clipped
    to a global norm.

    Args:
      learning_rate: the peak.
      warmup_steps, total_steps: of the schedule.
      weight_decay: AdamW's.
      clip_norm: largest global norm of a gradient.
      rows_rate: the peak of new rows and of a connector, which do not decay; None where there are
        none.
      ema_decay: of a moving average of what trains, see `eval_adapters`; 0 keeps none.
    """

    def adamw(rate: float, decay: float) -> optax.GradientTransformation:
        return optax.adamw(warmup_cosine(rate, warmup_steps, total_steps), weight_decay=decay)

    clip, lora = optax.clip_by_global_norm(clip_norm), adamw(learning_rate, weight_decay)
    averaged = [moving_average(ema_decay)] if ema_decay else []
    if rows_rate is None:
        return optax.chain(clip, lora, *averaged)
    label = lambda tree: {name: "rows" if name in _BESIDE else "lora" for name in tree}
    both = optax.multi_transform({"lora": lora, "rows": adamw(rows_rate, 0.0)}, label)
    return optax.chain(clip, both, *averaged)


class MovingAverage(NamedTuple):
    """State of `moving_average`: updates so far, and the average, float32."""

    count: Array
    average: Any


def moving_average(decay: float) -> optax.GradientTransformation:
    """Keeps a moving average of the parameters after each update, which it does not change; the
    last one of a chain.

    Args:
      decay: less at the start, (1 + updates) / (10 + updates), as in the training of tokenizers.
    """

    def init(params: Any) -> MovingAverage:
        return MovingAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: MovingAverage, params: Any = None) -> tuple[Any, MovingAverage]:
        kept = jnp.minimum(decay, (1 + state.count) / (10 + state.count))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, state.average, new)
        return updates, MovingAverage(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def eval_adapters(state: AdapterState) -> Any:
    """What is evaluated and saved: the moving average where one is kept, else what trains."""
    last = state.opt_state[-1]
    return last.average if isinstance(last, MovingAverage) else state.adapters


def initial_state(
    key: Array,
    model: Llama,
    lora: Lora,
    tx: optax.GradientTransformation,
    rows: Float[Any, "rows hidden"] | None = None,
    connector: Mapping[str, Any] | None = None,
) -> AdapterState:
    """The state before the first step: adapters that change nothing, and new rows and a connector
    where they start.
    """
    adapters: dict[str, Any] = dict(init_adapters(key, model.config, lora))
    if rows is not None:
        adapters[NEW_ROWS] = {"rows": jnp.asarray(rows, jnp.float32)}
    if connector is not None:
        adapters[CONNECTOR] = dict(connector)
    return AdapterState(jnp.zeros((), jnp.int32), adapters, tx.init(adapters))


def tuned_params(params: Any, adapters: Mapping[str, Any] | None, scale: float) -> dict[str, Any]:
    """A frozen model's parameters with what was trained beside them, as `Llama` takes both.

    Args:
      params: the frozen ones.
      adapters: of `AdapterState`; None leaves the model as it is.
      scale: `Lora.scale`.
    """
    if adapters is None:
        return params
    lora = {name: x for name, x in adapters.items() if name not in _BESIDE}
    more: dict[str, Any] = {"adapters": scaled(lora, scale)} if lora else {}
    if NEW_ROWS in adapters:
        more["slots"] = adapters[NEW_ROWS]["rows"]
    return {**params, **more}


def with_vectors(
    params: Any,
    ids: Int[Array, "batch length"],
    vectors: Float[Array, "batch slots hidden"],
    vocab_size: int,
) -> tuple[dict[str, Any], Int[Array, "batch length"]]:
    """Parameters and token ids that let each text read vectors of its own.

    Args:
      params: as `Llama` takes them.
      ids: the ids `vocab_size` + 0, 1, … stand for the text's own vectors, in order.
      vectors: in the place of word embeddings.
      vocab_size: of the language model.
    """
    rows, slots, hidden = vectors.shape
    first = slots * jnp.arange(rows, dtype=ids.dtype)[:, None]
    table = vectors.reshape(rows * slots, hidden)
    return {**params, "slots": table}, jnp.where(ids >= vocab_size, ids + first, ids)


def adapter_loss(
    model: Llama,
    params: Any,
    adapters: Mapping[str, Any] | None,
    scale: float,
    batch: Batch,
    chunk: int = 256,
) -> Float[Array, ""]:
    """Mean cross-entropy of the batch's targets, in nats, under the adapted model.

    Args:
      model: the network.
      params: its frozen parameters.
      adapters: of `AdapterState`; None is the frozen model.
      scale: `Lora.scale`.
      batch: {"tokens": int32 [batch, length], -1 pads on the right; "targets": int32 [batch,
        targets], positions of the tokens that count, -1 for none; with a connector also "features":
        [batch, slots, dim], which stand where the ids are `vocab_size` + 0, 1, …; "labels", where
        other tokens shall be predicted than stand at the targets, these; "prefix", where several
        texts begin alike: int32 [batch, length], what those of a row begin with, which is read
        once; "tokens" and "targets" are then [batch, texts, length], what follows it}.
      chunk: target tokens whose logits are held at once.
    """
    read = lambda name: jnp.asarray(batch[name])
    tuned = tuned_params(params, adapters, scale)
    first = read("prefix" if "prefix" in batch else "tokens")
    ids = jnp.maximum(first, 0)
    if adapters is not None and CONNECTOR in adapters:
        vectors = connect(adapters[CONNECTOR], batch["features"])
        tuned, ids = with_vectors(tuned, ids, vectors, model.config.vocab_size)
    variables, positions, contexts = {"params": tuned}, _positions(first), ()
    tokens, targets = (read(name).reshape(-1, read(name).shape[-1]) for name in _PER_TEXT)
    if "prefix" in batch:
        _, prefix = model.apply(variables, ids, positions, keep=True)
        ends = jnp.repeat(positions.max(1) + 1, len(tokens) // len(first))
        ids, contexts = jnp.maximum(tokens, 0), (prefix,)
        positions = jnp.where(tokens >= 0, ends[:, None] + _positions(tokens), -1)
    hidden, _ = model.apply(variables, ids, positions, contexts)
    return target_loss(
        lambda x: model.apply(variables, x, method="logits"),
        hidden,
        ids,
        targets,
        chunk,
        batch.get("labels"),
    )


_PER_TEXT = ("tokens", "targets")


def _positions(tokens: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """0, 1, …, and -1 where a row is padded on the right."""
    return jnp.where(tokens >= 0, jnp.arange(tokens.shape[1], dtype=jnp.int32), -1)


def make_adapter_step(model: Llama, lora: Lora, tx: optax.GradientTransformation) -> AdapterStep:
    """Returns the compiled step of `adapter_loss`; see `make_step`."""
    return make_step(
        lambda params, adapters, batch: adapter_loss(model, params, adapters, lora.scale, batch), tx
    )


def make_step(
    loss_of: Callable[[Any, Any, Batch], Array], tx: optax.GradientTransformation
) -> AdapterStep:
    """Returns the compiled step `(state, batch, params) -> (state, metrics)`; the given state is
    donated.

    Metrics are float32 scalars: loss, and gradient_norm before clipping.

    Args:
      loss_of: the loss of frozen parameters, of what trains beside them, and of a batch.
      tx: the optimizer.
    """

    def step(
        state: AdapterState, batch: Batch, params: Any
    ) -> tuple[AdapterState, dict[str, Array]]:
        loss, grads = jax.value_and_grad(lambda adapters: loss_of(params, adapters, batch))(
            state.adapters
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        metrics = {"loss": loss, "gradient_norm": optax.global_norm(grads)}
        return AdapterState(state.step + 1, adapters, opt_state), metrics

    return jax.jit(step, donate_argnums=0)
