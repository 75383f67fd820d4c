"""Image codecs as baselines: the best picture that fits into a file of a given size."""

import dataclasses
import functools
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features


@dataclasses.dataclass(frozen=True)
class Codec:
    """A format that Pillow writes, and its qualities, lowest first.

    Attributes:
      name: what to call it.
      kind: Pillow's name of the format.
      qualities: values of `knob`.
      knob: the option that sets the quality.
      options: further options, chosen for small files.
    """

    name: str
    kind: str
    qualities: tuple[int | float, ...]
    knob: str = "quality"
    options: tuple[tuple[str, object], ...] = ()

    def encode(self, image: UInt8[np.ndarray, "height width 3"], quality: int | float) -> bytes:
        """The file's bytes, without metadata."""
        file = io.BytesIO()
        value = [quality] if self.knob == "quality_layers" else quality
        Image.fromarray(image).save(file, self.kind, **{self.knob: value}, **dict(self.options))
        return file.getvalue()


_WHOLE = tuple(range(1, 96))
# Of JPEG 2000 the bare codestream; a layer's quality is its PSNR in dB.
_KNOWN = (
    Codec("JPEG", "JPEG", _WHOLE, options=(("optimize", True), ("subsampling", "4:2:0"))),
    Codec(
        "JPEG 2000",
        "JPEG2000",
        tuple(np.arange(8, 50, 0.25).tolist()),
        "quality_layers",
        (("quality_mode", "dB"), ("irreversible", True), ("no_jp2", True)),
    ),
    Codec("WebP", "WEBP", (0, *_WHOLE), options=(("method", 6),)),
    Codec("AVIF", "AVIF", (0, *_WHOLE), options=(("speed", 4), ("subsampling", "4:2:0"))),
)
_NEEDS = {"JPEG 2000": "jpg_2000", "WebP": "webp", "AVIF": "avif"}


@functools.cache
def codecs() -> tuple[Codec, ...]:
    """The codecs that the installed Pillow can write."""
    return tuple(
        codec for codec in _KNOWN if codec.name not in _NEEDS or features.check(_NEEDS[codec.name])
    )


def compress(
    image: UInt8[np.ndarray, "height width 3"], codec: Codec, budget: int | float
) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """Compresses a picture into at most `budget` bytes, headers included, at the highest quality.

    Finds the quality by bisection. Where none fits, takes the lowest, whose file is larger.

    Returns:
      The decoded picture and the size of its file in bytes.
    """
    low, high = 0, len(codec.qualities) - 1  # the best that fits lies between, or is the lowest
    best = codec.encode(image, codec.qualities[0])
    while low < high:
        middle = (low + high + 1) // 2
        file = codec.encode(image, codec.qualities[middle])
        if len(file) <= budget:
            low, best = middle, file
        else:
            high = middle - 1
    with Image.open(io.BytesIO(best)) as decoded:
        return np.array(decoded.convert("RGB")), len(best)
