"""The same words with other vectors, kept once made."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.run import building, loading
from v2l_jax.run.word_vectors import patches_of, with_vectors


@pytest.fixture
def config(tmp_path):
    config = experiment.complete(synthetic_config.get_config())
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    config.model.kind, config.model.image_size = "vqgan_star", 8
    config.model.channel_multipliers = (1, 1)
    return config


def test_each_kind_and_the_words_stay(config, tmp_path, monkeypatch):
    table = jnp.asarray(np.random.RandomState(0).randn(2, 7), jnp.float32)
    model = types.SimpleNamespace(params={"embedding": table})
    monkeypatch.setattr(loading, "language_model", lambda config: model)
    plain = building.codebooks(config, tmp_path)["local"]
    widths = {
        "tower": synthetic_config.DIM,
        "random": synthetic_config.DIM,
        "llm": 7,
        "patches": 12,
    }
    for kind, width in widths.items():
        config.model.vqgan_star.vectors = kind
        book = building.codebooks(config, tmp_path)["local"]
        assert book.texts == plain.texts and book.embeddings.shape == (50, width)
        again = building.codebooks(config, tmp_path)["local"]
        np.testing.assert_array_equal(book.embeddings, again.embeddings)
        assert building.tokenizer(config, building.vectors({"local": book})).quantizer.dim == width
    config.model.vqgan_star.vectors = "llm"
    book = building.codebooks(config, tmp_path)["local"]
    np.testing.assert_array_equal(book.embeddings, np.asarray(table)[[1] * 50])
    scaled = np.asarray(with_vectors(config, tmp_path, plain, "random", True).embeddings)
    np.testing.assert_allclose((scaled**2).sum(1).mean(), 1, rtol=1e-5)
    assert isinstance(book, Codebook)


def test_patches_are_cut_as_tokens_are(config):
    source = loading.photos(config).train
    image = building.image_transform(config, augment=False)(source[0], np.random.default_rng(0))
    patches = patches_of(source, 8, 2)
    assert patches.shape == (len(source) * 16, 12)
    np.testing.assert_allclose(patches[5].reshape(2, 2, 3), image["image"][2:4, 2:4], atol=1e-6)
