"""VQ-GAN* in a run over eight devices: its codebook is the run's words and stays as it is."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.jobs import codebook, evaluate, tokenize, train
from v2l_jax.metrics.results import read_results
from v2l_jax.run import building
from v2l_jax.run.tokens import read_tokens
from v2l_jax.tasks import reconstruction


@pytest.mark.mesh
def test_it_trains_over_frozen_words_and_is_scored(tmp_path):
    config = synthetic_config.get_config()
    config.model.kind = "vqgan_star"
    config.train.update(steps=4, learning_rate=1e-3, eval_every=2, disc_start=1)
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    train.run(config, tmp_path)
    tokenize.run(config, tmp_path)
    run = evaluate.open_run(config, tmp_path)
    reconstruction.measure(run, reconstruction.settings(config))
    words = Codebook.load(codebook.local_path(tmp_path)).embeddings
    trained = run.trained
    assert "codebook" not in trained.variables["params"]
    np.testing.assert_array_equal(trained.variables["frozen"]["local_words"], words)

    image = building.image_transform(config, augment=False)(
        run.photos.held_out[0], np.random.default_rng(0)
    )["image"]
    features = trained.tokenizer.network.apply(
        {"params": trained.variables["params"]}, jnp.asarray(image[None]), method="features"
    )
    features = np.asarray(features, float).reshape(-1, 1, synthetic_config.DIM)
    distances = ((features - words.astype(float)) ** 2).sum(-1)
    ids = read_tokens(tmp_path, "held_out")["local"][0].ravel()
    nearest = distances.min(axis=1)
    np.testing.assert_allclose(distances[np.arange(256), ids], nearest, rtol=1e-5)
    rows = {row.metric: row for row in read_results(tmp_path / "results.json")}
    assert rows["codebook_usage"].measured_on["words"] == synthetic_config.LOCAL_WORDS
    assert rows["psnr"].value > 5
