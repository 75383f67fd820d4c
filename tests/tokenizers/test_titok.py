"""TiTok: so many ids whatever the image's size in patches, from the whole image, and it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from tests.tokenizers.short_training import train
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.jobs.release import bits_a_picture
from v2l_jax.run import building


@pytest.fixture(scope="module")
def config():
    config = experiment.complete(synthetic_config.get_config())
    config.model.kind = "titok"
    config.model.titok.update(tokens=3, patch=4, hidden=16, layers=1, heads=2, rows=16, width=4)
    return config


def test_it_trains_and_every_token_paints_everywhere(config):
    tokenizer = building.tokenizer(config, {})
    batch = {"image": np.random.RandomState(0).uniform(-1, 1, (4, 16, 16, 3)).astype("f")}
    rows, variables = train(tokenizer, {}, batch, 20, learning_rate=1e-2)
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    image, tokens = jax.jit(tokenizer.reconstruct)(variables, jax.tree.map(jnp.asarray, batch))
    assert tokens["latent"].shape == (4, 3) and image.shape == (4, 16, 16, 3)
    assert bits_a_picture(tokenizer, variables, 16) == 3 * 4
    ids = np.asarray(tokens["latent"])
    other = ids.copy()
    other[:, 1] = (other[:, 1] + 1) % 16
    decode = jax.jit(tokenizer.decode)
    change = decode(variables, {"latent": ids}) - decode(variables, {"latent": other})
    patches = np.abs(np.asarray(change)).reshape(4, 4, 4, 4, 4, 3).max((2, 4, 5))
    assert (patches > 1e-6).all()  # a token belongs to no place


def test_sizes_that_do_not_divide_are_refused(config):
    changed = config.copy_and_resolve_references()
    changed.model.titok.patch = 5
    with pytest.raises(ConfigError, match="patch is 5, but must divide image_size, 16"):
        experiment.check(changed)
    changed.model.titok.update(patch=4, heads=3)
    with pytest.raises(ConfigError, match="heads is 3, but must divide 16"):
        experiment.check(changed)
