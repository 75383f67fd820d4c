"""Crops and value ranges against torchvision, torch and closed forms."""

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data import transforms

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(PHOTO).resize((610, 400), Image.Resampling.BICUBIC))


# Worked by hand from torchvision's rules: long side int(size · long / short), offset
# int(round((side - size) / 2)),
# half to even.
@pytest.mark.parametrize(
    "height, width, size, resized, top_left",
    [
        (40, 61, 32, (32, 48), (0, 8)),
        (40, 61, 57, (57, 86), (0, 14)),
        (61, 40, 57, (86, 57), (14, 0)),
        (61, 44, 32, (44, 32), (6, 0)),
        (50, 53, 32, (32, 33), (0, 0)),
        (40, 47, 32, (32, 37), (0, 2)),
        (40, 40, 57, (57, 57), (0, 0)),
        (61, 61, 61, (61, 61), (0, 0)),
    ],
)
def test_clip_preprocess_follows_torchvisions_rules(height, width, size, resized, top_left):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (top, left), (h, w) = top_left, resized
    expected = Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC)
    expected = np.asarray(expected.crop((left, top, left + size, top + size)), np.float64) / 255
    expected = (expected - [0.48145466, 0.4578275, 0.40821073]) / [
        0.26862954,
        0.26130258,
        0.27577711,
    ]
    np.testing.assert_allclose(transforms.clip_preprocess(image, size), expected, atol=1e-5)


def test_resampled_crop_equals_torchs_interpolate(torch):
    crop = transforms.crop_square(SMOOTH, 224)
    x = torch.from_numpy(crop.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    for size in (128, 64, 300):
        expected = torch.nn.functional.interpolate(
            x, size=(size, size), mode="bilinear", align_corners=False
        )
        actual = transforms.resample_crop(crop, size, antialias=False)
        np.testing.assert_allclose(actual, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_antialias_suppresses_a_checkerboard():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    board = np.stack([board] * 3, -1).astype(np.uint8)
    assert np.abs(transforms.resample_crop(board, 16, antialias=True)).max() < 0.1


def test_interpolation_keeps_a_linear_ramp():
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[None, :, None], (32, 32, 2)).copy()
    actual = transforms.interpolate_bilinear(ramp, 16)
    np.testing.assert_allclose(actual[0, :, 0], np.arange(16) * 2 + 0.5, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (50, 50), (17, 200), (3, 5)])
def test_crop_square_keeps_the_middle(shape):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = np.stack([255 * y / shape[0], 255 * x / shape[1], 0 * x], -1).astype(np.uint8)
    crop = transforms.crop_square(image, 24, "bilinear")
    assert crop.shape == (24, 24, 3)
    np.testing.assert_allclose(crop.mean((0, 1))[:2], image.mean((0, 1))[:2], atol=3)


def test_a_larger_short_side_zooms_in():
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 255
    assert transforms.crop_square(image, 32).mean() < 100
    assert transforms.crop_square(image, 32, short_side=64).min() == 255


def test_efficientnet_lite_normalisation():
    actual = transforms.normalise(
        PHOTO, transforms.EFFICIENTNET_LITE_MEAN, transforms.EFFICIENTNET_LITE_STD
    )
    np.testing.assert_allclose(actual, (PHOTO.astype(np.float64) - 127) / 128, atol=1e-6)


def test_signed_round_trip():
    signed = transforms.to_signed(PHOTO)
    assert signed.dtype == np.float32 and signed.min() == -1 and signed.max() == 1
    np.testing.assert_array_equal(transforms.to_uint8(signed), PHOTO)
    assert transforms.to_uint8(np.full((1, 1, 3), 1.5, np.float32)).max() == 255


def test_random_resized_crop_covers_the_scale_and_stays_inside():
    """A horizontal ramp tells which columns a crop took."""
    ramp = np.broadcast_to(np.linspace(0, 255, 200)[None, :, None], (100, 200, 3)).astype(np.uint8)
    rng = np.random.default_rng(0)
    crops = [
        transforms.random_resized_crop(ramp, 16, rng, scale=(0.1, 0.5), resample="bilinear")
        for _ in range(400)
    ]
    widths = np.array([float(c[0, -1, 0]) - float(c[0, 0, 0]) for c in crops]) / 255
    # Width share = sqrt(area · aspect · height / width), area in [.1, .5], aspect in [3/4, 4/3],
    # over 15/16.
    low, high = np.sqrt(0.1 * 0.75 * 0.5), np.sqrt(0.5 * 4 / 3 * 0.5)
    assert widths.min() > 0.85 * low and widths.max() < 1.02 * high
    assert widths.min() < 1.3 * low and widths.max() > 0.75 * high
    assert min(c.min() for c in crops) < 15 and max(c.max() for c in crops) > 240


def test_impossible_aspect_falls_back_to_the_centre():
    strip = np.zeros((2, 400, 3), np.uint8)
    crop = transforms.random_resized_crop(strip, 8, np.random.default_rng(0), scale=(1.0, 1.0))
    assert crop.shape == (8, 8, 3)


def test_flip_mirrors_half():
    rng = np.random.default_rng(0)
    flipped = [bool((transforms.random_flip(PHOTO, rng) != PHOTO).any()) for _ in range(400)]
    assert 0.4 < np.mean(flipped) < 0.6
    mirrored = next(
        f for f in (transforms.random_flip(PHOTO, rng) for _ in range(50)) if (f != PHOTO).any()
    )
    np.testing.assert_array_equal(mirrored, PHOTO[:, ::-1])


def test_image_transform_follows_the_papers_pipeline_and_is_deterministic():
    record = {"image": SMOOTH, "label": 3, "path": "x", "image_embedding": np.ones(4, np.float32)}
    plain = transforms.ImageTransform(16, crop_size=32)(record, np.random.default_rng(0))
    expected = transforms.resample_crop(transforms.crop_square(SMOOTH, 32), 16, antialias=False)
    np.testing.assert_array_equal(plain["image"], expected)
    np.testing.assert_array_equal(plain["image_embedding"], np.ones(4))
    assert plain["label"] == 3

    random = transforms.ImageTransform(32, crop_size=48, crop_scale=(0.2, 0.6), flip=True)
    first, again, other = (random(record, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


def test_image_transform():
    record = {"image": SMOOTH, "label": 1}
    plain = transforms.ImageTransform(24)(record, np.random.default_rng(0))
    np.testing.assert_array_equal(
        plain["image"], transforms.to_signed(transforms.crop_square(SMOOTH, 24))
    )
    random = transforms.ImageTransform(24, crop_scale=(0.3, 0.5), flip=True)(
        record, np.random.default_rng(0)
    )
    assert random["image"].shape == (24, 24, 3) and (random["image"] != plain["image"]).any()
