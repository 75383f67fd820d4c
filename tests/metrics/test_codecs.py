"""Codecs: what fits is the best that fits, what does not is the smallest there is."""

import numpy as np
import pytest
from PIL import Image

from v2l_jax.metrics.codecs import codecs, compress


@pytest.fixture(scope="module")
def photo(asset):
    return np.asarray(
        Image.open(asset("scikit-image-photos") / "chelsea.png").convert("RGB").resize((128, 128))
    )


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name)
def test_the_best_that_fits(photo, codec):
    error = lambda decoded: np.mean((photo.astype(float) - decoded) ** 2)
    least, smallest = compress(photo, codec, 0)
    assert smallest == len(codec.encode(photo, codec.qualities[0]))
    small, size = compress(photo, codec, 1500)
    large, larger = compress(photo, codec, 6000)
    assert size <= 1500 < larger <= 6000 and small.shape == large.shape == photo.shape
    assert error(large) < error(small) < error(least) and smallest < 600
    better = (
        [quality for quality in codec.qualities if len(codec.encode(photo, quality)) <= 6000]
        if codec.name != "AVIF"
        else []
    )
    assert not better or len(codec.encode(photo, better[-1])) == larger


def test_jpeg_is_always_there():
    assert codecs()[0].name == "JPEG" and len({codec.name for codec in codecs()}) == len(codecs())
