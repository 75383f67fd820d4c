"""Whether the devices wait for data: what a step could take, beside what the input pipeline gives,
measured while both run.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

_STARVING = 0.1
_FEWEST_STEPS = 10


class Pace:
    """A context that measures, over a training loop whose host runs ahead of the devices.

    A thread sees each step end. From that to the next batch's arrival, as far as the host was
    waiting for that batch, the devices starved; from then, or from the batch's arrival if that was
    later, to the end of the next step they worked. The first step, which compiles, does not count.

    Attributes:
      images: in the steps that ended.
      busy: seconds that devices worked on them.
      starved: seconds that devices had nothing to do because the host was waiting for data.
    """

    def __init__(self) -> None:
        self.images, self.busy, self.starved = 0, 0.0, 0.0
        self._steps, self._warned = 0, False
        self._started: queue.SimpleQueue = queue.SimpleQueue()
        self._fetch = (0.0, 0.0)
        self._thread = threading.Thread(target=self._watch, name="pace", daemon=True)

    def __enter__(self) -> "Pace":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.put(None)
        self._thread.join()
        if self.images:
            logging.info("%s", self)

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Surrounds the wait for a batch."""
        start = time.perf_counter()
        yield
        self._fetch = (start, time.perf_counter())

    def started(self, images: int, result: Any) -> None:
        """Says that the step on the batch fetched last was started: how many images it has, over
        all processes, and what it returns.
        """
        self._started.put((*self._fetch, images, result))

    def check(self) -> None:
        """Warns, once, where the input pipeline is the bottleneck."""
        if (
            not self._warned
            and self._steps >= _FEWEST_STEPS
            and self.starved > _STARVING * (self.busy + self.starved)
        ):
            self._warned = True
            logging.warning(
                "the input pipeline is the bottleneck: %s; raise config.train.loader_workers, or "
                "read from faster storage",
                self,
            )

    def __str__(self) -> str:
        busy, starved = max(self.busy, 1e-9), self.starved
        gives = "gives" if starved > _STARVING * (busy + starved) else "gives at least"
        return (
            f"it {gives} {self.images / (busy + starved):.4g} images/s, the step could take "
            f"{self.images / busy:.4g}"
        )

    def _watch(self) -> None:
        ended = None
        while (started := self._started.get()) is not None:
            asked, arrived, images, result = started
            with contextlib.suppress(Exception):  # the loop meets it too
                jax.block_until_ready(result)
            now = time.perf_counter()
            if ended is not None:
                self.images += images
                self.busy += now - max(arrived, ended)
                self.starved += max(0.0, arrived - max(asked, ended))
                self._steps += 1
            ended = now
