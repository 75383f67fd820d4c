"""What FID and IS read: Inception's outputs of photos and of their reconstructions, batch by
batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.run import building
from v2l_jax.run.reconstruction import inception_of_pairs, reconstruct
from v2l_jax.towers.inception import inception_outputs, load_inception

IMAGES = 5


@pytest.fixture(scope="module")
def tokenizer():
    """A config, its untrained model and variables, and five photos that fill no batch of four."""
    config = synthetic_config.get_config()
    config.evaluate.batch_size = 4
    random, dim = np.random.RandomState(0), synthetic_config.DIM
    words = {
        name: random.randn(count, dim).astype("f4")
        for name, count in (("local", 50), ("global", 21))
    }
    model = building.tokenizer(config, words)
    trainer = building.trainer(config, model, IMAGES)
    params = trainer.initial_state().params
    source = WithVectors(
        SyntheticSource(IMAGES, 20, seed=1), random.randn(IMAGES, dim).astype("f4")
    )
    return config, model, {"params": params, "frozen": model.frozen(words)}, source


def test_inception_sees_photos_and_their_reconstructions_in_order(asset, tokenizer):
    config, model, variables, source = tokenizer
    mesh, params = (
        make_mesh({"data": 1}, jax.devices()[:1]),
        load_inception(asset("inception-v3-fid")),
    )
    photos, pictures = inception_of_pairs(config, model, variables, source, mesh, params)
    transform = building.image_transform(config, augment=False)
    images = np.stack(
        [transform(source[i], np.random.default_rng(0))["image"] for i in range(IMAGES)]
    )
    decoded = np.concatenate(
        [picture for _, picture, _ in reconstruct(config, model, variables, source, mesh)]
    )
    expected = inception_outputs(
        params, np.asarray(jnp.round((images + 1) * 127.5)).astype(np.uint8), batch_size=IMAGES
    )
    np.testing.assert_allclose(photos.features, expected.features, atol=2e-4)
    np.testing.assert_allclose(
        pictures.features, inception_outputs(params, decoded, batch_size=IMAGES).features, atol=2e-4
    )
    assert (
        np.abs(photos.features - pictures.features).max() > 0.1
        and np.ptp(pictures.features, axis=0).max() > 1e-3
    )
