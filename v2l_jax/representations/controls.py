"""Controls: representations that tell as much as another one, but not of the image that is asked
about. What a task reaches above them was read off the image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from v2l_jax.metrics.results import Scalar
from v2l_jax.representations.base import ImageSet, Representation, Segments, Written
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Shuffled(Representation):
    """Every image is written as another one.

    Attributes:
      of: how the other one is written.
      seed: draws which.
    """

    of: Representation
    seed: int

    def fingerprint(self) -> dict[str, Scalar]:
        """That of what is shuffled."""
        return self.of.fingerprint()

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Prepares what is shuffled."""
        self.of.prepare(run, images, budget)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The segments of the other images."""
        own, other = self.of.segments(run, images, budget), self.content(images)
        return Written(len(images), lambda index: own[int(other[index])])

    def content(self, images: ImageSet) -> Int[np.ndarray, " images"]:
        """Which other image each is written as."""
        return derangement(len(images), self.seed)


@dataclasses.dataclass(frozen=True)
class NoImage(Representation):
    """Nothing is written of any image.

    Attributes:
      of: what is left out.
    """

    of: Representation

    def fingerprint(self) -> dict[str, Scalar]:
        """That of what is left out."""
        return self.of.fingerprint()

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """No segments."""
        del run, budget
        return Written(len(images), lambda index: ())

    def content(self, images: ImageSet) -> None:
        """Nothing is told of any image."""


def under_control(inner: Representation, control: str, seed: int) -> Representation:
    """A representation as a control shows it.

    Args:
      inner: how images are written.
      control: "none", "shuffled" or "no_tokens", as rows of results name it.
      seed: draws which image "shuffled" shows.
    """
    wrapped = {
        "none": lambda: inner,
        "shuffled": lambda: Shuffled(inner, seed),
        "no_tokens": lambda: NoImage(inner),
    }
    return wrapped[control]()


def derangement(count: int, seed: int) -> Int[np.ndarray, " images"]:
    """For each image the number of another one; each number comes once. One image has no other and
    keeps its own.
    """
    order = np.random.default_rng(seed).permutation(count)
    shifted = np.empty(count, np.int64)
    shifted[order] = np.roll(order, 1)
    return shifted
