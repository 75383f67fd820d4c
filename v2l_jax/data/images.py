"""Decodes image files of any kind to upright 8-bit RGB arrays."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

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

_PHOTOMETRIC = 262  # the tag of a TIFF that is 0 where 0 is white; Pillow minds it up to 8 bits
_SAMPLE_FORMAT = 339  # the tag of a TIFF that tells signed integers (2) from unsigned (1)

_MOST_PIXELS = 1 << 27  # 940 MB while it is decoded
_ALWAYS_DECODED = 1 << 24  # pixels
_MOST_PIXELS_A_BYTE = 1 << 14  # of a larger one; a blank page has 130 as JPEG, 12,000 as a fax
_BAND = 1 << 22  # pixels converted at a time

# Sound PNGs carry larger texts and colour profiles than Pillow allows by default, 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 27

# What Pillow's decoders raise on files that are cut short, tampered with, or not images at all.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError, RuntimeError, ArithmeticError, AttributeError, MemoryError,
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
            size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
            _check_pixels(image.width, image.height, size)
            image.load()
            return _to_array(_upright(image), image)
    except _DECODER_ERRORS as error:
        raise CorruptImageError(name, _reason(error)) from error


def _check_pixels(width: int, height: int, size: int) -> None:
    """Raises ValueError for an image too large to decode, or that a file of `size` bytes can only
    claim to hold.
    """
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{width} × {height} pixels, more than {_MOST_PIXELS:,}")
    if width * height > max(_ALWAYS_DECODED, _MOST_PIXELS_A_BYTE * size):
        raise ValueError(f"{width} × {height} pixels cannot stand in {size:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if "cannot identify image file" in str(error):
        return "not an image in a known format"
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # A damaged EXIF block says nothing about the pixels: the image stays as stored.
    with contextlib.suppress(*_DECODER_ERRORS):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _to_array(image: Image.Image, opened: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Converts in bands, so that a large image is in memory once as it was decoded and once as it
    is returned.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.array(image)
    levels = _levels_of_32_bits(image, opened) if image.mode.startswith("I") else None
    inverted = levels is not None and getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    result = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image.crop(box)
        result[top : box[3]] = (
            np.asarray(_to_rgb(band)) if levels is None else _grey(band, *levels)[..., None]
        )
    return 255 - result if inverted else result


def _grey(image: Image.Image, mask: int, white: int) -> UInt8[np.ndarray, "height width"]:
    """Levels of more than 8 bits as 8 bits."""
    levels = np.asarray(image)
    if white > 65535:
        wide = np.clip(levels.astype(np.int64) & mask, 0, white)
        return np.round(wide * (255 / white)).astype(np.uint8)
    table = np.round(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    if levels.dtype != np.uint16:  # otherwise each level has its place in the table
        levels = np.clip(levels, 0, white)
    return np.take(table, levels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _levels_of_32_bits(image: Image.Image, opened: Image.Image) -> tuple[int, int]:
    """What to mask grey levels with, to take them as unsigned where a TIFF says so, and which level
    is white.
    """
    if image.mode != "I" or opened.format in ("PNG", "PPM"):
        return -1, 65535
    formats = getattr(opened, "tag_v2", {}).get(_SAMPLE_FORMAT, (2,))
    signed = formats[0] == 2 if isinstance(formats, tuple) else formats == 2
    lowest, highest = (int(level) for level in image.getextrema())  # pyright: ignore
    if not signed and lowest < 0:
        highest = 0xFFFFFFFF
    whites = (255, 65535, 0x7FFFFFFF if signed else 0xFFFFFFFF)
    return -1 if signed else 0xFFFFFFFF, next(white for white in whites if highest <= white)
