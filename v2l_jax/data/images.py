"""Decodes image files of any kind to upright 8-bit RGB arrays."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin

from v2l_jax.errors import DataError

# Formats that Pillow only recognises, or hands to another program.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")

Image.init()
EXTENSIONS = frozenset(
    ending
    for ending, format in Image.registered_extensions().items()
    if format in Image.OPEN and format not in _NOT_DECODED
)
"""Endings of the names of files that Pillow opens, in lower case."""

_SAMPLE_FORMAT = 339  # the tag of a TIFF that tells signed integers (2) from unsigned (1)

# Sound PNGs carry larger texts and colour profiles than Pillow allows by default, 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 27

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

    The EXIF orientation is applied; grayscale, palette, CMYK, 16-bit and 32-bit images are
    converted; transparent pixels are composited over white; of an animation the first frame is
    taken. White is 65535 in 16-bit grayscale. A 32-bit file does not say what is white: 255, as in
    Pillow's own conversion, unless there are higher values, then 65535, then the type's highest.

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
            return np.array(_to_rgb(_upright(image), image))
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


def _to_rgb(image: Image.Image, opened: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        white = 65535
        if image.mode == "I" and opened.format not in ("PNG", "PPM"):
            levels, white = _levels_of_32_bits(levels, opened)
        eight_bits = np.round(np.clip(levels, 0, white) * (255 / white)).astype(np.uint8)
        return Image.fromarray(eight_bits).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _levels_of_32_bits(levels: np.ndarray, opened: Image.Image) -> tuple[np.ndarray, int]:
    """Levels, unsigned where a TIFF says so, and which of them is white."""
    formats = getattr(opened, "tag_v2", {}).get(_SAMPLE_FORMAT, (2,))
    signed = formats[0] == 2 if isinstance(formats, tuple) else formats == 2
    levels = levels if signed else levels & 0xFFFFFFFF
    highest = int(levels.max(initial=0))
    return levels, next(
        white for white in (255, 65535, 0x7FFFFFFF if signed else 0xFFFFFFFF) if highest <= white
    )
