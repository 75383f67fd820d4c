"""A trace of a few training steps, which TensorBoard's profiler and XProf open."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import logging

from v2l_jax.parallel.processes import is_primary


class StepProfiler:
    """A context in which some steps are traced: what the devices and this host did. The first
    process alone writes.

    Args:
      steps: the first and the last step that are traced, from 1; empty traces none. The first step
        of a process compiles.
      folder: gets plugins/profile/<time>/<host>.xplane.pb.
    """

    def __init__(self, steps: Sequence[int] = (), folder: str | os.PathLike = ""):
        self._first, self._last = steps or (0, -1)
        self._folder, self._tracing = os.fspath(folder), False

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            logging.info(
                "traced steps %d to %d: tensorboard --logdir %s",
                self._first,
                self._last,
                self._folder,
            )

    @contextlib.contextmanager
    def step(self, number: int, settle: Callable[[], None]) -> Iterator[None]:
        """Surrounds a step; `settle` waits for all that were started, so that the trace holds these
        steps alone, and all of them.
        """
        if not self._first <= number <= self._last or not is_primary():
            yield
            return
        if not self._tracing:
            settle()
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        if number == self._last:
            settle()
            self.__exit__()
