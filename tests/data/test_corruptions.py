"""Corruptions against OpenCV's numbers, scipy and scikit-image, and closed forms."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import rotate as skimage_rotate

from v2l_jax.data.corruptions import (
    CORRUPTIONS,
    blur_kernel,
    corner_square,
    corrupt,
    draw_kernel_size,
    gaussian_blur,
    hole,
    rotate,
)
from v2l_jax.data.transforms import crop_square, to_signed


def _noise(side=16):
    return np.random.RandomState(0).rand(side, side, 3).astype("f4") * 2 - 1


def _prepare(photo):
    return to_signed(crop_square(photo, 32))


# cv2.GaussianBlur(_noise(), (n, n), sigmaX=0)[[0, 0, 7, 15], [0, 5, 9, 15], [0, 1, 2, 0]], OpenCV
# 5.0.
@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        (
            5,
            [-0.1580478847026825, -0.2101999670267105, -0.10180877149105072, -0.040600743144750595],
        ),
        (
            7,
            [
                -0.16569575667381287,
                -0.04930124804377556,
                -0.08428753167390823,
                -0.08066876977682114,
            ],
        ),
        (
            9,
            [
                -0.16687315702438354,
                -0.01405620202422142,
                -0.06431007385253906,
                -0.09509555250406265,
            ],
        ),
        (
            11,
            [
                -0.1654864102602005,
                0.0015602634521201253,
                -0.040398430079221725,
                -0.10305289924144745,
            ],
        ),
    ],
)
def test_blur_equals_opencv(size, pixels):
    blurred = gaussian_blur(_noise(), size)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(
        blurred[[0, 0, 7, 15], [0, 5, 9, 15], [0, 1, 2, 0]], pixels, atol=2e-6
    )


def test_long_kernels_are_the_gaussian_that_scipy_filters_with():
    expected = ndimage.gaussian_filter(_noise(), (2.0, 2.0, 0), mode="mirror", radius=(5, 5, 0))
    np.testing.assert_allclose(gaussian_blur(_noise(), 11), expected, atol=1e-6)


@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_kernels_are_symmetric_and_sum_to_one(size):
    kernel = blur_kernel(size)
    assert len(kernel) == size and kernel.argmax() == size // 2
    np.testing.assert_array_equal(kernel, kernel[::-1])
    np.testing.assert_allclose(kernel.sum(), 1)


def test_kernel_sizes_follow_the_published_draw():
    sizes = [draw_kernel_size(np.random.default_rng((0, i))) for i in range(7000)]
    found, counts = np.unique(sizes, return_counts=True)
    np.testing.assert_array_equal(found, [5, 7, 9, 11])
    np.testing.assert_allclose(counts / 1000, [1, 2, 2, 2], atol=0.15)


def test_rotation_is_a_quarter_turn():
    np.testing.assert_allclose(rotate(_noise()), skimage_rotate(_noise(), 90, order=0), atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_shift_shows_the_bottom_right_corner(shape):
    photo = np.random.RandomState(1).randint(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(corner_square(photo), photo[shape[0] - 40 :, shape[1] - 40 :])


def test_shift_after_resizing_is_the_published_view():
    from PIL import Image

    rows, columns = np.mgrid[:64, :160]
    photo = np.stack([rows * 3, columns, 128 + 60 * np.sin(columns / 9 + rows / 7)], -1).astype(
        np.uint8
    )
    published = np.asarray(Image.fromarray(photo).resize((80, 32), Image.Resampling.BICUBIC))[
        -32:, -32:
    ]
    ours = corrupt(photo, _prepare, "shift", 0, 0)
    np.testing.assert_allclose((ours[:, 2:] + 1) * 127.5, published[:, 2:].astype("f4"), atol=1.01)


def test_a_square_photo_cannot_shift():
    photo = np.random.RandomState(2).randint(0, 256, (48, 48, 3), np.uint8)
    np.testing.assert_array_equal(corrupt(photo, _prepare, "shift", 0, 0), _prepare(photo))


def test_holes_of_the_papers_grid():
    centre, lower = hole("inpainting", 16, 16), hole("outpainting", 16, 16)
    assert np.argwhere(centre).min(0).tolist() == [4, 4] and np.argwhere(centre).max(
        0
    ).tolist() == [11, 11]
    assert centre.sum() == 64
    np.testing.assert_array_equal(
        lower.nonzero()[0].reshape(8, 16), np.arange(8, 16)[:, None].repeat(16, 1)
    )
    assert all(hole(name, 16, 16).all() for name in ("deblurring", "rotation", "shift"))


@pytest.mark.parametrize("name", ["inpainting", "outpainting"])
def test_holes_of_pixels_cover_those_of_words(name):
    words, pixels = hole(name, 16, 16), hole(name, 64, 64)
    np.testing.assert_array_equal(pixels, words.repeat(4, 0).repeat(4, 1))
    photo = np.full((64, 64, 3), 255, np.uint8)
    damaged = corrupt(photo, lambda x: to_signed(x), name, 0, 0)
    np.testing.assert_array_equal(damaged, np.where(pixels[..., None], 0, 1) * np.ones(3))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_depends_on_seed_and_index_alone(name):
    photo = np.random.RandomState(3).randint(0, 256, (40, 60, 3), np.uint8)
    np.testing.assert_array_equal(
        corrupt(photo, _prepare, name, 5, 7), corrupt(photo, _prepare, name, 5, 7)
    )
    different = {corrupt(photo, _prepare, name, 5, index).tobytes() for index in range(20)}
    assert len(different) == (4 if name == "deblurring" else 1)
