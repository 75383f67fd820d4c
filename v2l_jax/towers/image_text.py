"""The interface of image–text towers."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np


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
    """

    name: str
    kind: Literal["clip", "conse"]
    image_size: int
    dim: int
    params: Any
    preprocess: Callable[[np.ndarray], np.ndarray]
    encode_image: Callable[[Any, jax.Array], jax.Array]
    encode_texts: Callable[..., np.ndarray]
