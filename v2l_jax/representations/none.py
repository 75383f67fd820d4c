"""Nothing is written of an image: what a task's other parts give away."""

import dataclasses
from collections.abc import Sequence

from v2l_jax.representations.base import ImageSet, Representation, Segments, Written
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Writes nothing; has no options."""

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """No segments."""
        del run, budget
        return Written(len(images), lambda index: ())

    def content(self, images: ImageSet) -> None:
        """Nothing is told of any image."""
