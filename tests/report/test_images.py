"""Pictures survive their way into a data URI."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from v2l_jax.report.images import centre_square, data_uri


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_small_pictures_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    uri = data_uri(image)
    assert uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(_decoded(uri), image)


def test_large_pictures_are_scaled_and_light():
    ramp = np.linspace(0, 255, 1200).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (900, 1200, 3))
    uri = data_uri(np.ascontiguousarray(image))
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 40_000
    decoded = _decoded(uri)
    assert decoded.shape == (330, 440, 3)
    expected = np.linspace(0, 255, 440)
    assert np.abs(decoded[165, :, 0] - expected).max() < 4


@pytest.mark.parametrize("shape", [(4, 9, 3), (9, 4, 3), (5, 5, 3)])
def test_centre_square(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    square = centre_square(image)
    side = min(shape[:2])
    assert square.shape == (side, side, 3)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    np.testing.assert_array_equal(square, image[top : top + side, left : left + side])
