"""Pictures as data URIs, so that the page carries them inside itself."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def data_uri(image: UInt8[np.ndarray, "height width 3"], longest_side: int = 440) -> str:
    """Encodes an RGB picture, 0..255, as a data URI; same pixels, same string.

    A picture whose longer side is at most 128 pixels (a reconstruction) is kept exactly, as PNG; a
    larger one is scaled down to `longest_side` pixels at most and stored as JPEG.
    """
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    if max(picture.size) <= 128:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
        picture.save(buffer, format="JPEG", quality=85, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def centre_square(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "side side 3"]:
    """Crops the centre square of a picture, which is the part that the tokenizer sees."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]
