"""Images for the networks: crops, sizes and value ranges; numpy and Pillow on the host, pure
functions.

The tokenizer's input is CLIP's crop of the image, resampled bilinearly to the tokenizer's size, in
[-1, 1] (the published code of Zhu et al. 2024).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# EfficientNet-Lite: (255 x - 127) / 128 for x in [0, 1].
EFFICIENTNET_LITE_MEAN, EFFICIENTNET_LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int, resample: str = "bicubic"
) -> UInt8[np.ndarray, "height width 3"]:
    """Pillow's antialiased resize; `resample` is a key of RESAMPLING."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), RESAMPLING[resample]))


def shrink(
    image: UInt8[np.ndarray, "h w 3"], short_side: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Brings the short side down to `short_side` where it is longer; bicubic."""
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    return resize(image, round(height * scale), round(width * scale))


def centre_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The centre square of an image with both sides at least `size`; offsets rounded as torchvision
    rounds them.
    """
    height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def crop_square(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    resample: str = "bicubic",
    short_side: int | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes the short side, then crops the centre square.

    Args:
      image: any size.
      size: side of the square.
      resample: a key of RESAMPLING.
      short_side: length of the short side before the crop, at least `size` and `size` by default;
        larger zooms in (EfficientNet-Lite evaluates at size + 32).
    """
    height, width = image.shape[:2]
    target = short_side or size
    if height <= width:
        height, width = target, int(target * width / height)
    else:
        height, width = int(target * height / width), target
    return centre_crop(resize(image, height, width, resample), size)


def normalise(
    image: UInt8[np.ndarray, "*batch h w 3"], mean: Sequence[float], std: Sequence[float]
) -> Float32[np.ndarray, "*batch h w 3"]:
    """(x / 255 - mean) / std, a channel at a time."""
    unit = image.astype(np.float32) / np.float32(255)
    return (unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def to_signed(image: UInt8[np.ndarray, "*batch h w 3"]) -> Float32[np.ndarray, "*batch h w 3"]:
    """[0, 255] → [-1, 1]."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: Float[np.ndarray, "*batch h w 3"]) -> UInt8[np.ndarray, "*batch h w 3"]:
    """[-1, 1] → [0, 255], rounded; values outside are clipped."""
    return np.clip(np.round((np.asarray(image, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def interpolate_bilinear(
    image: Float32[np.ndarray, "h w channel"], size: int
) -> Float32[np.ndarray, "size size channel"]:
    """Bilinear samples at half-pixel centres without antialiasing, as torch's `F.interpolate` takes
    them.
    """
    top, bottom, down = _neighbours(image.shape[0], size)
    left, right, across = _neighbours(image.shape[1], size)
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    return rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output sample: the input index before it, the one after, and that one's weight."""
    position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    before = np.floor(position).astype(np.int64)
    return before, np.minimum(before + 1, length - 1), (position - before).astype(np.float32)


def clip_preprocess(
    image: UInt8[np.ndarray, "h w 3"],
    size: int = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    resample: str = "bicubic",
    short_side: int = 0,
    squash: bool = False,
) -> Float32[np.ndarray, "size size 3"]:
    """Input of a CLIP image tower: resize of the short side, centre crop, mean and std.

    Args:
      image: any size.
      size: side of the result.
      mean, std: of each channel in [0, 1].
      resample: a key of RESAMPLING.
      short_side: what the short side is resized to, at least `size`; 0 is `size`.
      squash: resize the whole image to the square instead.
    """
    square = (
        resize(image, size, size, resample)
        if squash
        else crop_square(image, size, resample, max(short_side, size))
    )
    return normalise(square, mean, std)


def resample_crop(
    crop: UInt8[np.ndarray, "side side 3"], size: int, antialias: bool
) -> Float32[np.ndarray, "size size 3"]:
    """Input of the tokenizer from CLIP's crop: resampled bilinearly to `size`, in [-1, 1].

    Args:
      crop: square; of side 224 in the paper.
      size: the tokenizer's image side; 128 in the paper.
      antialias: filter before sampling down. The published code does not, which matters below half
        the crop's size.
    """
    return (
        to_signed(resize(crop, size, size, "bilinear"))
        if antialias
        else interpolate_bilinear(to_signed(crop), size)
    )


def random_resized_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    resample: str = "bicubic",
) -> UInt8[np.ndarray, "size size 3"]:
    """A random rectangle of the image, resized to a square (Szegedy et al. 2015, as torchvision
    draws it).

    Args:
      image: any size.
      size: side of the result.
      rng: where the randomness comes from.
      scale: range of the rectangle's share of the image's area.
      ratio: range of its width / height; uniform in the logarithm.
      resample: a key of RESAMPLING.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return resize(image[top : top + h, left : left + w], size, size, resample)
    return crop_square(image, size, resample)


def random_flip(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Mirrors left and right with probability 1/2."""
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Source record → {"image": the tokenizer's input in [-1, 1], "label"}, with the record's
    "image_embedding" vector if it has one.

    Attributes:
      image_size: side of the tokenizer's input.
      crop_size: side of the square crop, bicubic, that is then brought to `image_size` bilinearly
        (paper: 224); None crops straight to `image_size`.
      crop_scale: range of the area share of a random resized crop; None takes the centre square, as
        the paper does.
      flip: mirror half of the images.
      antialias: see `resample_crop`.
    """

    image_size: int
    crop_size: int | None = None
    crop_scale: tuple[float, float] | None = None
    flip: bool = False
    antialias: bool = False

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Applies the transform; all randomness comes from `rng`."""
        size = self.crop_size or self.image_size
        if self.crop_scale is None:
            crop = crop_square(record["image"], size)
        else:
            crop = random_resized_crop(record["image"], size, rng, self.crop_scale)
        if self.flip:
            crop = random_flip(crop, rng)
        image = (
            to_signed(crop)
            if size == self.image_size
            else resample_crop(crop, self.image_size, self.antialias)
        )
        image_embedding = (
            {"image_embedding": record["image_embedding"]} if "image_embedding" in record else {}
        )
        return {"image": image, "label": np.int32(record["label"])} | image_embedding


FITS = ("crop", "stretch", "pad")


def fit_square(
    image: UInt8[np.ndarray, "h w 3"], size: int, how: str
) -> UInt8[np.ndarray, "size size 3"]:
    """An image as a square.

    Args:
      image: any size.
      size: side of the square.
      how: "crop" keeps the centre, "stretch" changes the aspect, "pad" puts grey beside or above
        and below.
    """
    if how == "crop":
        return crop_square(image, size)
    if how == "stretch":
        return resize(image, size, size)
    height, width = image.shape[:2]
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((size, size, 3), 128, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = resize(image, height, width)
    return square
