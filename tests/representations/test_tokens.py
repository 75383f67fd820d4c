"""A tokenizer's ids as words: streams in order, up to the budget; encoded once where the tokenize
job has not been.
"""

import numpy as np
import pytest

from tests import synthetic_config
from tests.representations.test_frozen import _Photos
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.representations import representation, tokens
from v2l_jax.representations.base import ImageSet, shown_text
from v2l_jax.run import building, loading
from v2l_jax.run.run import Run


@pytest.fixture
def run(tmp_path):
    """A run whose SPAE has written one image after the other as words "0", "1", …"""
    config = experiment.complete(synthetic_config.get_config())
    config.model.kind, config.model.spae.sides = "spae", (1, 2, 16)
    config.representation.kind = "tokens"
    words = np.zeros((50, 4), "f")
    book = Codebook(words, tuple(f" w{i}" for i in range(50)), ((1,),) * 50, "noise", "llm")
    network = building.tokenizer(config, {"local": words, "candidates": words})
    context = _Run(config, tmp_path)
    photos = loading.Photos(_Photos(), _Photos(), (), "three")
    trained = building.TrainedTokenizer(network, {}, book)
    vars(context).update(photos=photos, trained=trained, local_words=book)
    return context


class _Run(Run):
    def features(self, name, source):
        return np.zeros((7, 4), "f")


def _streams(config, trained, source, mesh, description):
    _streams.calls += 1
    numbers = np.arange(7)[:, None, None]
    return {
        "layer_1": numbers + 0 * np.zeros((1, 1, 1), int),
        "layer_2": numbers + np.arange(10, 14).reshape(1, 2, 2),
        "layer_3": numbers + np.full((1, 16, 16), 30),
    }


def test_layers_follow_one_another_up_to_the_budget(run, monkeypatch):
    _streams.calls = 0
    monkeypatch.setattr(tokens, "encoded", _streams)
    images, shown = ImageSet(("train", run.photos.train)), representation(run.config)
    shown.prepare(run, images, 5)
    texts = [shown_text(s, str) for s in shown.segments(run, images, 5)]
    assert texts[0] == "w0 w10 w11 w12 w13" and texts[2] == "w2 w12 w13 w14 w15"
    more = shown_text(shown.segments(run, images, 7)[1], str)
    assert more == "w1 w11 w12 w13 w14 w31 w31" and _streams.calls == 1
    run.config.representation.tokens.stream = "layer_2"
    one = representation(run.config).segments(run, images, 21)
    assert shown_text(one[3], str) == "w13 w14 w15 w16"


@pytest.mark.parametrize(
    ("kind", "stream", "message"),
    [
        ("vqgan", "", "vqgan has no words for its ids"),
        ("spae", "local", "but the tokenizer has la"),
    ],
)
def test_streams_without_words_are_refused(run, kind, stream, message):
    run.config.model.kind, run.config.representation.tokens.stream = kind, stream
    words = {name: np.zeros((50, 4), "f") for name in ("local", "candidates")}
    vars(run)["trained"] = building.TrainedTokenizer(building.tokenizer(run.config, words), {})
    with pytest.raises(ConfigError, match=message):
        representation(run.config).prepare(run, ImageSet(("train", run.photos.train)), 5)
