"""The paper's config at full size: its schedule and its model are the paper's, and a step of it
fits together: small sizes take it elsewhere, tests/launch compiles it.
"""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.run import building
from v2l_jax.training.trainer import total_steps

LOCAL_WORDS, GLOBAL_WORDS, WORD_DIM, IMAGES = 32_000, 11_908, 768, 1_281_167


@pytest.fixture(scope="module")
def config():
    config = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "configs" / "imagenet.py"))[
        "get_config"
    ]()
    config.model.dtype = "float32"
    return config


def test_schedule_is_a_hundred_epochs_of_256(config):
    assert total_steps(config.train, IMAGES) == 100 * IMAGES // 256 == 500_455
    assert config.train.batch_size == 256 and config.train.learning_rate == 4.5e-4


def test_a_step_fits_together_at_full_size(config):
    rng = np.random.default_rng(0)
    source = WithVectors(SyntheticSource(2, 250), rng.normal(size=(2, WORD_DIM)).astype(np.float32))
    batch = next(make_loader(source, building.image_transform(config, augment=True), 1, seed=0))
    assert batch["image"].shape == (1, 128, 128, 3) and batch["image_embedding"].shape == (
        1,
        WORD_DIM,
    )
    words = {
        name: jnp.asarray(rng.normal(size=(count, WORD_DIM)) * WORD_DIM**-0.5, jnp.float32)
        for name, count in (("local", LOCAL_WORDS), ("global", GLOBAL_WORDS))
    }
    tokenizer = building.tokenizer(config, words)
    side = config.model.image_size // tokenizer.network.downsampling
    assert tokenizer.network.downsampling == 8 and side == 16
    trainer = building.trainer(config, tokenizer, IMAGES)
    state = trainer.state_shapes
    after, metrics = jax.eval_shape(
        trainer.step_function(),
        state,
        {k: batch[k] for k in ("image", "image_embedding")},
        building.frozen_inputs(tokenizer, words, building.lpips_params(config)),
    )
    jax.tree.map(_same_shape, after, state)
    assert {"loss", "reconstruction_loss", "quantizer_loss", "perceptual_loss"} <= metrics.keys()
    assert all(x.shape == () and x.dtype == np.float32 for x in jax.tree.leaves(metrics))


def _same_shape(after, before):
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
