"""Patch features through a trained linear map or MLP: an image is written as vectors, LLaVA's way
(Liu et al. 2023). The continuous counterpart of visual words.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from v2l_jax.llm.connector import init_connector
from v2l_jax.options import one_of, option
from v2l_jax.representations.base import ImageSet
from v2l_jax.representations.connected import Connected, own_rows
from v2l_jax.representations.patch_options import PatchOptions
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(Connected, PatchOptions):
    """Options of patch features as vectors; the finetune job trains the map. The budget is not
    looked at.
    """

    layers: int = option(2, "1: a linear map; 2: an MLP with GELU", one_of(1, 2))

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images slots dim"]:
        """The patches of every image, row by row."""
        return self.flat_patches(run, images)

    def init_adapter(self, key: Any, run: Run) -> dict[str, jax.Array]:
        """A fresh map."""
        own, mean, spread = own_rows(run)
        sizes = (self.patch_dim(run), own.shape[1], self.layers)
        return init_connector(key, *sizes, mean, spread)
