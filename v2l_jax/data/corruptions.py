"""Damaged pictures of the five denoising tasks (Zhu et al. 2024, Table 4): pure functions
of a picture and a seed.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

Corruption = Literal["inpainting", "outpainting", "deblurring", "rotation", "shift"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)

# Half of each kernel up to its centre. OpenCV, which the published blur calls without a sigma,
# tabulates the short ones.
_TABULATED = {5: (1, 4, 6), 7: (2, 7, 14, 18), 9: (4, 13, 30, 51, 60)}


def corrupt(
    photo: UInt8[np.ndarray, "h w 3"],
    prepare: Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "size size 3"]],
    corruption: Corruption,
    seed: int,
    index: int,
) -> Float32[np.ndarray, "size size 3"]:
    """The damaged picture that a tokenizer sees.

    Args:
      photo: any size.
      prepare: photo → the tokenizer's input in [-1, 1].
      corruption: what happens to it. "inpainting" and "outpainting" paint the part to be filled
        grey; "shift" prepares the bottom-right square of the photo in place of the centre one, so a
        square photo stays as it is.
      seed: draws the blur's kernel, together with `index`.
      index: which photo of its set this is.
    """
    if corruption == "shift":
        return prepare(corner_square(photo))
    image = prepare(photo)
    if corruption == "rotation":
        return rotate(image)
    if corruption == "deblurring":
        return gaussian_blur(image, draw_kernel_size(np.random.default_rng((seed, index))))
    return np.where(hole(corruption, *image.shape[:2])[..., None], np.float32(0), image)


def hole(corruption: Corruption, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Mask of what has to be restored, on a grid of tokens or pixels.

    Returns:
      The centre half of both sides for "inpainting", the lower half for "outpainting", everything
      for the others.
    """
    mask = np.ones((height, width), bool)
    if corruption == "inpainting":
        mask[:] = False
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    elif corruption == "outpainting":
        mask[: height // 2] = False
    return mask


def rotate(image: Float32[np.ndarray, "side side 3"]) -> Float32[np.ndarray, "side side 3"]:
    """A quarter turn counter-clockwise."""
    return np.ascontiguousarray(np.rot90(image))


def corner_square(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "side side 3"]:
    """The bottom-right square of the short side's length.

    Cropped before the photo is resized, where the published code crops after: the same view but for
    the border pixels.
    """
    side = min(photo.shape[:2])
    return photo[-side:, -side:]


def draw_kernel_size(rng: np.random.Generator) -> int:
    """5, 7, 9 or 11, as albumentations draws `blur_limit=(5, 11)`: uniform from 5 to 11, even
    numbers go up by one.
    """
    return int(rng.integers(5, 12)) | 1


def blur_kernel(size: int) -> Float64[np.ndarray, " size"]:
    """OpenCV's Gaussian of an odd kernel size: sigma = 0.15 size + 0.35, or its table for 5, 7 and
    9; sums to one.
    """
    if size in _TABULATED:
        half = np.asarray(_TABULATED[size], np.float64)
        kernel = np.concatenate([half, half[-2::-1]])
    else:
        kernel = np.exp(-0.5 * ((np.arange(size) - size // 2) / (0.15 * size + 0.35)) ** 2)
    return kernel / kernel.sum()


def gaussian_blur(
    image: Float[np.ndarray, "h w 3"], kernel_size: int
) -> Float32[np.ndarray, "h w 3"]:
    """Blurs both directions; pixels beyond the border mirror those inside, the border itself not
    repeated.
    """
    from scipy import ndimage

    kernel = blur_kernel(kernel_size)
    rows = ndimage.correlate1d(np.asarray(image, np.float64), kernel, axis=0, mode="mirror")
    return ndimage.correlate1d(rows, kernel, axis=1, mode="mirror").astype(np.float32)
