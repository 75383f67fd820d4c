"""The training loop: steps, logging, evaluation, checkpoints, and what happens when something goes
wrong.
"""

import contextlib
import math
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

from v2l_jax.errors import CheckpointError, DataError, NanLossError
from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.parallel.processes import is_primary
from v2l_jax.progress import progress_bar
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.pace import Pace
from v2l_jax.training.profiler import StepProfiler
from v2l_jax.training.watchdog import Watchdog

PREEMPTED_EXIT_CODE = 128 + signal.SIGTERM
"""How a run that was told to stop (SIGTERM) exits once it has saved: 143. Launchers start it again.
"""

MAX_STEPS_IN_FLIGHT = 4
"""How far the host runs ahead of the devices: enough to keep them busy, few enough to bound the
batches in memory.
"""

StepFunction = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Mapping[str, Any]]]


def fit(
    state: PyTree,
    step_fn: StepFunction,
    loader: Any,
    frozen: PyTree,
    *,
    num_steps: int,
    mesh: Mesh,
    checkpointer: Checkpointer | None = None,
    metric_log: MetricLog | None = None,
    log_every: int = 50,
    checkpoint_every: int | None = None,
    eval_every: int | None = None,
    evaluate: Callable[[PyTree], Mapping[str, float]] | None = None,
    until: Callable[[Mapping[str, float]], bool] | None = None,
    show: Sequence[str] = ("loss", "psnr"),
    description: str = "training",
    hang_seconds: float = 0.0,
    profiler: StepProfiler | None = None,
) -> PyTree:
    """Trains until `num_steps` steps are done, going on from the newest checkpoint where there is
    one.

    A run that was interrupted anywhere ends bit for bit like one that was not: state, data position
    and metric rows. Of several processes each calls this with the same arguments and its own part
    of the data; all stop at the same step.

    Args:
      state: pytree with an int32 scalar `step` (steps done), placed on the devices; it may be
        donated.
      step_fn: `(state, batch, frozen) -> (state, metrics)`, metrics being float32 scalars; jitted
        by the caller.
      loader: iterator of this process's part of each batch (trees of numpy arrays `[local_batch,
        ...]`), with `get_state()` and `set_state(position)`.
      frozen: passed to `step_fn` as it is.
      num_steps: total steps, those done before included.
      mesh: devices the batches are spread over.
      checkpointer: where to save and resume from.
      metric_log: gets a "train" row (means over the steps since the last) every `log_every` steps
        and an "eval" row each evaluation.
      log_every: steps between rows.
      checkpoint_every: steps between checkpoints; evaluations and the last step save too.
      eval_every: steps between evaluations; the last step has one too.
      evaluate: `state -> metrics`; the checkpointer keeps the best by these.
      until: training ends early after the first evaluation whose metrics fulfil this.
      show: metrics shown live beside the progress bar.
      description: what the progress bar says.
      hang_seconds: where a step, an evaluation or a save takes longer, every thread's stack goes to
        stderr and the process ends with code 1; 0 waits for ever. The first step compiles.
      profiler: traces the steps that it names.

    Returns:
      The state after `num_steps` steps, or where `until` ended training.

    Raises:
      NanLossError: a loss or norm is not finite (names the step), or the state is not. Nothing of
        that is saved.
      CheckpointError: saving or restoring failed.
      DataError: the loader ran out.
      SystemExit: SIGTERM came; the state is saved; the code is PREEMPTED_EXIT_CODE.
    """
    recorder = _Recorder(metric_log, log_every, checkpointer)
    first, evaluated = int(state.step), False
    if checkpointer is not None and checkpointer.steps():
        restored = checkpointer.restore(state)
        state, first, evaluated = restored.state, restored.step, bool(restored.metrics)
        loader.set_state(restored.data_position)
        recorder.unlogged = defaultdict(
            list, {name: list(values) for name, values in restored.unlogged.items()}
        )
        logging.info("%s goes on from step %d of %d", description, first, num_steps)
    if metric_log is not None:
        metric_log.resume(first, evaluated)

    def evaluated_at(state: PyTree, step: int) -> dict[str, float]:
        found = {} if evaluate is None else evaluate(state)
        metrics = {name: float(value) for name, value in found.items()}
        if metrics and metric_log is not None:
            metric_log.write(step, "eval", metrics)
        return metrics

    def save(state: PyTree, step: int, metrics: Mapping[str, float]) -> None:
        if checkpointer is not None:
            position = loader.get_state()
            checkpointer.save(
                step, state, data_position=position, metrics=metrics, unlogged=recorder.unlogged
            )

    def due(step: int, every: int | None) -> bool:
        return step == num_steps or bool(every and step % every == 0)

    if (
        first > 0
        and not evaluated
        and evaluate is not None
        and due(first, eval_every)
        and first <= num_steps
    ):
        evaluated_at(state, first)  # SIGTERM came between this step and its evaluation
    if first >= num_steps:
        return state

    bar = progress_bar(
        range(first + 1, num_steps + 1),
        description if is_primary() else "",
        "step",
        total=num_steps,
    )
    bar.n = bar.initial = first
    with (
        _sigterm() as stop_asked,
        _finish_saving(checkpointer),
        contextlib.closing(bar),
        Watchdog(hang_seconds) as watchdog,
        profiler or StepProfiler() as profiler,
        Pace() as pace,
    ):
        for step in bar:
            watchdog.feed()
            with profiler.step(step, recorder.settle):
                with pace.fetching():
                    batch = _next_batch(loader, step)
                batch = shard_batch(batch, mesh)
                state, metrics = step_fn(state, batch, frozen)
                pace.started(len(jax.tree.leaves(batch)[0]), metrics)
                recorder.add(step, metrics)
            if step % log_every == 0:
                pace.check()
                bar.set_postfix_str(recorder.postfix(show), refresh=False)
            stopping = stop_asked(step)
            evaluating, found = evaluate is not None and due(step, eval_every), {}
            if stopping or evaluating or due(step, checkpoint_every):
                recorder.settle()
                _check_finite(state, step, checkpointer)
                watchdog.feed()
                found = evaluated_at(state, step) if evaluating and not stopping else {}
                save(state, step, found)
            if stopping:
                if checkpointer is not None:
                    checkpointer.wait()
                logging.warning(
                    "told to stop: saved at step %d of %d; run again to go on", step, num_steps
                )
                raise SystemExit(PREEMPTED_EXIT_CODE)
            if found and until is not None and until(found):
                break
        if checkpointer is not None:
            checkpointer.wait()
    return state


class _Recorder:
    """Fetches metrics a few steps late, so that no device waits for the host; guards against NaN;
    writes rows of means.
    """

    def __init__(
        self, metric_log: MetricLog | None, log_every: int, checkpointer: Checkpointer | None
    ):
        self.unlogged: dict[str, list[float]] = defaultdict(list)
        self._in_flight: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._latest: dict[str, float] = {}
        self._metric_log = metric_log
        self._log_every = log_every
        self._checkpointer = checkpointer

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        for value in metrics.values():
            value.copy_to_host_async()
        self._in_flight.append((step, metrics))
        self._settle(MAX_STEPS_IN_FLIGHT)

    def settle(self) -> None:
        """Waits for every step so far."""
        self._settle(0)

    def postfix(self, names: Sequence[str]) -> str:
        return ", ".join(
            f"{name} {self._latest[name]:.4g}" for name in names if name in self._latest
        )

    def _settle(self, allowed_in_flight: int) -> None:
        while len(self._in_flight) > allowed_in_flight:
            step, metrics = self._in_flight.popleft()
            self._latest = {
                name: float(value) for name, value in jax.device_get(dict(metrics)).items()
            }
            for name, value in self._latest.items():
                if name.endswith(("loss", "norm")) and not math.isfinite(value):
                    raise _nan_error(f"{name} is {value} at step {step}", self._checkpointer)
                self.unlogged[name].append(value)
            if step % self._log_every == 0:
                if self._metric_log is not None:
                    means = {
                        name: math.fsum(values) / len(values)
                        for name, values in self.unlogged.items()
                    }
                    self._metric_log.write(step, "train", means)
                self.unlogged.clear()


def _next_batch(loader: Iterator, step: int) -> PyTree:
    try:
        return next(loader)
    except StopIteration:
        raise DataError(
            f"the data ran out before step {step}; let the loader repeat, or train for fewer steps"
        ) from None


def _check_finite(state: PyTree, step: int, checkpointer: Checkpointer | None) -> None:
    """Raises where this state must not be saved; on every process alike. On the host: compiling it
    would take longer.
    """
    shards = [
        shard.data
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    ]
    finite = all(np.isfinite(np.asarray(shard)).all() for shard in shards)
    if jax.process_count() > 1:
        finite = bool(multihost_utils.process_allgather(np.asarray(finite)).all())
    if not finite:
        raise _nan_error(
            f"the training state has values that are not finite after step {step}", checkpointer
        )


def _nan_error(what: str, checkpointer: Checkpointer | None) -> NanLossError:
    kept = "no checkpoint yet"
    if checkpointer is not None and (steps := checkpointer.steps()):
        kept = f"the last good checkpoint, step {steps[-1]} in {checkpointer.directory}, is kept"
    return NanLossError(f"{what}; {kept}: lower the learning rate or raise warm-up, then run again")


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
    """Turns SIGTERM into a question while the loop runs: whether to stop after this step. Only the
    main thread can.

    Of several processes one or all may get the signal; JAX's coordinator picks a step that none has
    passed yet.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: asked.is_set()
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
    if asked.is_set():  # while the last step was evaluated and saved: what follows is not begun
        raise SystemExit(PREEMPTED_EXIT_CODE)


@contextlib.contextmanager
def _finish_saving(checkpointer: Checkpointer | None) -> Iterator[None]:
    """Lets a save that is under way finish when the loop fails for another reason, which stays the
    one reported.
    """
    try:
        yield
    except BaseException:
        if checkpointer is not None:
            with contextlib.suppress(CheckpointError):
                checkpointer.wait()
        raise
