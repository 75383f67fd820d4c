"""A blind prefix: learned vectors that are the same for every image. What a prompt of that many
vectors reaches without seeing.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from v2l_jax.options import POSITIVE, option
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.connected import Connected, own_rows
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(Connected):
    """Options of a blind prefix; the finetune job trains it."""

    vectors: int = option(16, "of every image", POSITIVE)

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images 1 1"]:
        """Nothing is seen."""
        del run
        return np.zeros((len(images), 1, 1), np.float32)

    def vector_count(self, features: np.ndarray) -> int:
        """The learned vectors."""
        del features
        return self.vectors

    def init_adapter(self, key: Any, run: Run) -> dict[str, Any]:
        """Vectors about the mean of the language model's rows, spread as these are."""
        _, mean, spread = own_rows(run)
        drawn = jax.random.normal(key, (self.vectors, len(mean)))
        return {"constant": {"vectors": mean + spread * drawn}}
