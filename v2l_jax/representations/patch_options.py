"""The options of representations that are made of patch features."""

import dataclasses

import numpy as np
from jaxtyping import Float

from v2l_jax.data.transforms import FITS
from v2l_jax.options import COUNT, FLAG, NAME, POSITIVE, Rule, one_of, option
from v2l_jax.representations.base import ImageSet, Representation
from v2l_jax.run.patches import PatchFeatures
from v2l_jax.run.run import Run

_INTEGER = Rule("an integer", lambda v: isinstance(v, int) and not isinstance(v, bool))
PATCH_OPTIONS = tuple(field.name for field in dataclasses.fields(PatchFeatures))
"""Their names: the fields of `PatchFeatures`."""


@dataclasses.dataclass(frozen=True)
class PatchOptions(Representation):
    """Which features of an image's patches; see `run.patches.PatchFeatures`."""

    tower: str = option(
        "hf://facebook/dinov2-with-registers-large",
        "the frozen vision transformer: a registered asset ('dinov2-s'), hf:// address or path",
        NAME,
    )
    layer: int = option(-2, "blocks before the features; -2 is one block before the last", _INTEGER)
    norm: bool = option(False, "whether the tower's final LayerNorm follows", FLAG)
    image_size: int = option(224, "side of the square that the tower sees, pixels", POSITIVE)
    fit: str = option("crop", "how an image becomes a square", one_of(*FITS))
    pool: int = option(0, "side of the grid that patches are averaged to; 0 keeps all", COUNT)

    def tokenize_seconds(self, run: Run, images: ImageSet) -> float | None:
        """The mean over the images' parts, by their number: the tower's work, nearly all of it."""
        spent = [(self.patches.seconds(run, name, part), len(part)) for name, part in images.parts]
        if any(seconds is None for seconds, _ in spent):
            return None
        count = sum(images for _, images in spent)
        return sum((seconds or 0.0) * images for seconds, images in spent) / count

    def flat_patches(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images patches dim"]:
        """The patches of every image, row by row; made and kept, unless they are there."""
        parts = [self.patches.of(run, name, part) for name, part in images.parts]
        return np.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in parts])

    def patch_dim(self, run: Run) -> int:
        """How many numbers a patch has."""
        return self.patches.of(run, "train", run.photos.train).shape[-1]

    @property
    def patches(self) -> PatchFeatures:
        """Which features."""
        return PatchFeatures(*(getattr(self, name) for name in PATCH_OPTIONS))
