"""Patch features through a trained linear map or MLP: an image is written as vectors, LLaVA's way
(Liu et al. 2023). The continuous counterpart of visual words.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from v2l_jax.llm.connector import connect, init_connector
from v2l_jax.options import one_of, option
from v2l_jax.representations.base import Ids, ImageSet, Segments, Slots, Written
from v2l_jax.representations.patch_options import PatchOptions
from v2l_jax.run import adapters
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(PatchOptions):
    """Options of patch features as vectors; the finetune job trains the map. The budget is not
    looked at.
    """

    layers: int = option(2, "1: a linear map; 2: an MLP with GELU", one_of(1, 2))

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images slots dim"]:
        """The patches of every image."""
        parts = [self.patches.of(run, name, part) for name, part in images.parts]
        return np.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in parts])

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Writes the features of each part into the workdir, unless they are there."""
        del budget
        for name, part in images.parts:
            self.patches.of(run, name, part)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The vectors of the trained map, row by row."""
        del budget
        params, features = adapters.trained_connector(run), self.features(run, images)
        return Written(len(images), lambda i: (Slots(np.asarray(connect(params, features[i]))),))

    def shortest(self, budget: int) -> Segments:
        """One place; how many patches there are, the tower's file says."""
        del budget
        return (Ids((0,)),)

    def init_adapter(self, key: Any, run: Run) -> dict[str, jax.Array]:
        """A fresh map."""
        own = np.asarray(run.llm.params["embedding"], np.float32)
        images = ImageSet(("train", run.photos.train))
        dim = self.features(run, images).shape[-1]
        spread = float((own - own.mean(0)).std())
        return init_connector(key, dim, own.shape[1], self.layers, own.mean(0), spread)
