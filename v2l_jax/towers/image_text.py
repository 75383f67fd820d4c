"""The interface of image–text towers, and how one is opened by its address.

A tower is a file of this room with a function `open_tower(weights, options, locate, dtype)`;
`NEEDS_WEIGHTS` says whether its address names a checkpoint after the colon.
"""

import dataclasses
import functools
import importlib
import pathlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class ImageTextTower:
    """Images and texts as unit vectors in one space, so that a dot product compares them.

    Attributes:
      name: which weights, for reports and for matching a codebook to the tower that made it.
      kind: "clip" for a contrastively trained pair; "conse" for a classifier joined to a sentence
        encoder.
      image_size: side of the input images in pixels.
      dim: length of the vectors.
      params: parameters of the image side, a pytree to pass to `encode_image`.
      preprocess: `(image uint8 [height, width, 3]) -> float32 [image_size, image_size, 3]`, on the
        host in numpy; it pickles, without the parameters, so that loader processes can run it.
      encode_image: `(params, images [batch, image_size, image_size, 3] preprocessed) -> float32
        [batch, dim]`, L2-normalised; pure, to be jitted by the caller.
      encode_texts: `(texts, batch_size) -> float32 numpy [text, dim]`, L2-normalised; a host loop
        over jitted batches with a progress bar.
      assumed: a sentence for each setting that no file beside the weights states.
    """

    name: str
    kind: str
    image_size: int
    dim: int
    params: Any
    preprocess: Callable[[np.ndarray], np.ndarray]
    encode_image: Callable[[Any, jax.Array], jax.Array]
    encode_texts: Callable[..., np.ndarray]
    assumed: tuple[str, ...] = ()


@functools.cache
def kinds() -> dict[str, ModuleType]:
    """The files of this room that open a tower, by name."""
    package = __package__ or ""
    names = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names}
    return {n: m for n, m in modules.items() if hasattr(m, "NEEDS_WEIGHTS")}


def is_address(address: object) -> bool:
    """Whether a text is a tower's address: a kind, with ":" and a checkpoint where it needs one."""
    kind, mark, weights = str(address).partition(":")
    return kind in kinds() and bool(weights) == bool(mark) == kinds()[kind].NEEDS_WEIGHTS


def addresses() -> str:
    """What an address may be, in words."""
    shapes = [
        f"'{k}:' and a checkpoint" if m.NEEDS_WEIGHTS else f"'{k}'" for k, m in kinds().items()
    ]
    return ", or ".join(sorted(shapes, reverse=True))


def open_tower(
    address: str, options: Any, locate: Callable[[str], pathlib.Path], dtype: DTypeLike
) -> ImageTextTower:
    """Loads a tower.

    Args:
      address: such as "conse" or "clip:hf://openai/clip-vit-large-patch14".
      options: attributes that the kind reads; those of `config.tower_options`.
      locate: from the name of an asset, a hub's address or a path to a local path.
      dtype: that matrix products round their operands to.
    """
    kind, _, weights = address.partition(":")
    return kinds()[kind].open_tower(weights, options, locate, dtype)
