"""Decodes image files of any kind to upright 8-bit RGB arrays."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from v2l_jax.errors import DataError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# What Pillow's decoders raise on files that are cut short, tampered with, or not images at all.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


class CorruptImageError(DataError):
    """A file that should hold an image cannot be decoded.

    Attributes:
      path: the file, or "<bytes>".
      reason: what the decoder found.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"corrupt image {self.path}: {self.reason}; replace or delete the file"


def decode_image(
    source: str | os.PathLike | bytes, name: str | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a whole image file.

    The EXIF orientation is applied; grayscale, palette, CMYK and 16-bit images are converted;
    transparent pixels are composited over white; of an animation the first frame is taken.

    Args:
      source: a path, or the file's bytes.
      name: what to call the image in an error; the path by default.

    Returns:
      RGB in [0, 255].

    Raises:
      CorruptImageError: the file is missing, truncated, or not an image.
    """
    name = name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return np.array(_to_rgb(_upright(image)))
    except _DECODER_ERRORS as error:
        raise CorruptImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if "cannot identify image file" in str(error):
        return "not an image in a known format"
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # A damaged EXIF block says nothing about the pixels: the image stays as stored.
    with contextlib.suppress(*_DECODER_ERRORS):
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):  # 16-bit grayscale: 65535 is white
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(np.round(levels / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
