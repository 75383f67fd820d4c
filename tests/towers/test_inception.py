"""FID's InceptionV3: parity with the archive's own code, the resize, both file layouts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.inception_checkpoint import torchvision_layout
from v2l_jax.errors import AssetError
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.towers import inception as tower

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "inception_pool3.npz"


@pytest.fixture(scope="module")
def params(asset):
    return tower.load_inception(asset("inception-v3-fid"))


@pytest.fixture(scope="module")
def photos(asset):
    """Two photos, whole (shrunk by the resize) and their 128×128 middles (enlarged)."""
    folder, crops = asset("scikit-image-photos"), {}
    for name in ("chelsea", "astronaut"):
        photo = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        crops |= {name: photo, f"{name}_128": photo[100:228, 100:228]}
    return crops


def test_features_are_those_of_the_published_network(params, photos):
    with np.load(GOLDEN) as golden:  # from the TorchScript archive, run by torch
        for name, photo in photos.items():
            output = tower.inception(params, photo[None])
            assert output.logits is None and np.ptp(golden[name]) > 1
            np.testing.assert_allclose(output.features[0], golden[name], atol=5e-5, err_msg=name)


def test_matches_the_archive_run_by_torch(torch, asset, params):
    network = torch.jit.load(
        str(asset("inception-v3-fid"))
    )  # its digest is pinned; only tests execute it
    images = np.random.default_rng(0).integers(0, 256, (3, 299, 299, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network((torch.tensor(images).permute(0, 3, 1, 2) - 128.0) / 128).numpy()
    np.testing.assert_allclose(tower.inception(params, images).features, expected, atol=5e-5)


def test_resize_samples_from_the_corner():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (1, 7, 13, 3)).astype(np.float32)
    size = 11
    expected = np.zeros((1, size, size, 3))
    for i in range(size):
        for j in range(size):
            y, x = i * 7 / size, j * 13 / size
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (1 - abs(y - int(y) - dy)) * (1 - abs(x - int(x) - dx))
                    expected[0, i, j] += (
                        weight * image[0, min(int(y) + dy, 6), min(int(x) + dx, 12)]
                    )
    np.testing.assert_allclose(
        tower.resize_bilinear(jnp.asarray(image), size), expected, rtol=1e-5, atol=1e-3
    )


def test_torchvision_layout_adds_logits(params, photos, monkeypatch):
    tensors = torchvision_layout(params, np.random.default_rng(0))
    assert "Mixed_5b.branch3x3dbl_3.conv.weight" in tensors and len(tensors) == 94 * 5 + 2
    monkeypatch.setattr(tower, "read_torch", lambda path: tensors)
    loaded = tower.load_inception("pt_inception.pth")
    photo = photos["chelsea_128"][None]
    expected, output = tower.inception(params, photo), tower.inception(loaded, photo)
    np.testing.assert_allclose(output.features, expected.features, atol=5e-5)
    np.testing.assert_allclose(output.logits, expected.features @ tensors["fc.weight"].T, atol=2e-3)

    tensors["fc.weight"] = tensors["fc.weight"][:1000]  # torchvision's classifier
    with pytest.raises(AssetError, match="torchvision's own weights do not fit"):
        tower.load_inception("inception_v3_google.pth")
    del tensors["Mixed_7b.branch_pool.bn.bias"]
    with pytest.raises(
        AssetError, match="not FID's InceptionV3: it has no tensor 'Mixed_7b.branch_pool.bn.bias'"
    ):
        tower.load_inception("half.pth")


def test_other_files_are_refused(monkeypatch):
    monkeypatch.setattr(tower, "read_torch", lambda path: {"features.0.weight": np.zeros(3)})
    with pytest.raises(AssetError, match="vgg.pth is not FID's InceptionV3"):
        tower.load_inception("vgg.pth")


@pytest.mark.mesh
def test_devices_and_batches_do_not_change_features(params):
    images = np.random.default_rng(0).integers(0, 256, (11, 40, 48, 3), dtype=np.uint8)
    sharded = tower.inception_outputs(params, images, make_mesh({"data": 8}), batch_size=8)
    assert sharded.features.shape == (11, 2048) and sharded.logits is None
    assert jax.device_count() == 8
    alone = tower.inception_outputs(params, images, batch_size=11)
    np.testing.assert_allclose(sharded.features, alone.features, atol=2e-5)
