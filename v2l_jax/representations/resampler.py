"""Patch features through a trained resampler: learned queries read all patches by cross-attention,
and an image is as many vectors as there are queries (Flamingo's Perceiver, BLIP-2's Q-Former).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from v2l_jax.llm.resampler import FORMS, init_resampler
from v2l_jax.options import POSITIVE, one_of, option
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.connected import Connected, own_rows
from v2l_jax.representations.patch_options import PatchOptions
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(Connected, PatchOptions):
    """Options of a resampler; the finetune job trains it. The budget is not looked at."""

    form: str = option("perceiver", "which network", one_of(*FORMS))
    queries: int = option(32, "vectors an image", POSITIVE)
    layers: int = option(2, "of cross-attention and MLP, as wide as the language model", POSITIVE)

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images patches dim"]:
        """The patches of every image, row by row."""
        return self.flat_patches(run, images)

    def vector_count(self, features: np.ndarray) -> int:
        """The queries."""
        del features
        return self.queries

    def init_adapter(self, key: Any, run: Run) -> dict[str, Any]:
        """A fresh resampler."""
        own, mean, spread = own_rows(run)
        sizes = (self.patch_dim(run), own.shape[1], self.queries, self.layers)
        return init_resampler(key, self.form, *sizes, mean, spread)
