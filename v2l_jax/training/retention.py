"""Which checkpoints to keep: the newest few, the best by a metric, and one every so often."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class KeepLastAndBest:
    """An orbax preservation policy.

    Attributes:
      last: how many of the newest to keep.
      best: how many of the best by `metric` to keep besides.
      metric: name of the metric; None ranks nothing.
      higher_is_better: whether a larger value is better.
      every: keep the steps that it divides besides; 0 keeps none for that.
      scores: step to its metrics; steps without the metric, or with NaN, are not ranked.
    """

    last: int
    best: int
    metric: str | None
    higher_is_better: bool
    every: int = 0
    scores: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)

    def ranked(self, steps: Sequence[int]) -> list[int]:
        """The steps that have the metric, best first; of equals, the newer first."""
        scored = [
            (self.scores.get(step, {}).get(self.metric or "", math.nan), step) for step in steps
        ]
        scored = [
            (value if self.higher_is_better else -value, step)
            for value, step in scored
            if not math.isnan(value)
        ]
        return [step for _, step in sorted(scored, reverse=True)]

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> Sequence[bool]:
        """See `orbax.checkpoint.checkpoint_managers.PreservationPolicy`."""
        del context
        steps = sorted(info.step for info in checkpoints)
        kept = {*steps[-self.last :], *self.ranked(steps)[: self.best]}
        kept.update(step for step in steps if self.every and step % self.every == 0)
        return [info.step in kept for info in checkpoints]
