"""PSNR and SSIM against scikit-image and closed forms."""

import jax
import numpy as np
import pytest
from skimage import metrics

from v2l_jax.metrics import image_quality


@pytest.fixture(scope="module")
def pairs():
    """Smooth pictures and three kinds of damage: noise, blur-like shift, constant offset; in [-1,
    1].
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:56] / 20
    clean = (
        np.stack([np.sin(3 * x + y), np.cos(x * y), np.sin(x) * np.cos(2 * y)], -1)[None].repeat(
            3, 0
        )
        * 0.9
    )
    damaged = clean.copy()
    damaged[0] += rng.normal(0, 0.2, clean[0].shape)
    damaged[1] = np.roll(damaged[1], 2, axis=1)
    damaged[2] += 0.1
    return clean.astype(np.float32), np.clip(damaged, -1, 1).astype(np.float32)


def unit(image):
    return (image.astype(np.float64) + 1) / 2


def test_psnr_equals_scikit_image(pairs):
    expected = [
        metrics.peak_signal_noise_ratio(unit(a), unit(b), data_range=1)
        for a, b in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(image_quality.psnr(*pairs), expected, rtol=1e-5)


def test_ssim_equals_scikit_image(pairs):
    expected = [
        metrics.structural_similarity(
            unit(a), unit(b), data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(*pairs, strict=True)
    ]  # fmt: skip
    assert 0.2 < min(expected) < 0.9
    np.testing.assert_allclose(image_quality.ssim(*pairs), expected, atol=1e-4)


def test_closed_forms(pairs):
    clean, _ = pairs
    zeros = np.zeros_like(clean)
    np.testing.assert_allclose(
        image_quality.psnr(zeros, zeros + 0.2), 20.0, rtol=1e-5
    )  # 0.1 on [0, 1]
    assert np.isinf(image_quality.psnr(clean, clean)).all()
    np.testing.assert_allclose(image_quality.ssim(clean, clean), 1.0, atol=1e-6)


def test_values_outside_the_range_are_clipped(pairs):
    ones = np.ones_like(pairs[0])
    assert np.isinf(image_quality.psnr(ones, ones * 1.7)).all()
    np.testing.assert_allclose(image_quality.ssim(ones, ones * 1.7), 1.0, atol=1e-6)


def test_all_metrics_by_name(pairs):
    """What a compiled function holds for the perceptual distance are its weights, not its code."""
    distance = jax.tree_util.Partial(lambda weight, a, b: weight * abs(a - b).mean((1, 2, 3)), 2.0)
    scores = image_quality.image_quality(*pairs, distance)
    assert list(scores) == ["lpips", "psnr", "ssim"]
    np.testing.assert_array_equal(scores["psnr"], image_quality.psnr(*pairs))
    np.testing.assert_array_equal(scores["ssim"], image_quality.ssim(*pairs))
    expected = 2 * np.abs(pairs[0] - pairs[1]).mean((1, 2, 3))
    np.testing.assert_allclose(scores["lpips"], expected, rtol=1e-5)
    assert set(image_quality.image_quality(*pairs)) == {"psnr", "ssim"}
