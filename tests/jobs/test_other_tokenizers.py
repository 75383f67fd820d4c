"""What the page and the tasks of local words make of tokenizers without V2L's two streams."""

import types

import numpy as np
import pytest

from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.jobs.report import words_shown
from v2l_jax.run import building
from v2l_jax.run.pictures import check_local_words
from v2l_jax.tasks.reconstruction import tokenizer_name


def _trained(kind):
    config = experiment.default()
    config.model.kind = kind
    config.model.lqae.update(language_model="minilm-l6-v2", heads=6)
    vectors = {name: np.zeros((6, 12), "f") for name in ("local", "global", "candidates")}
    book = Codebook(vectors["local"], tuple("abcdef"), ((1,),) * 6, "noise", "llm")
    return config, building.TrainedTokenizer(building.tokenizer(config, vectors), {}, book, book)


@pytest.mark.parametrize(
    ("kind", "tokens", "shown"),
    [
        ("v2l", {"global": [[1, 0]], "local": [[[2, 3], [4, 5]]]}, ("ba", "cdef")),
        ("vqgan", {"local": [[[2_000]]]}, ("", "")),
        ("vqgan_star", {"local": [[[5, 0]]]}, ("", "fa")),
        ("lqae", {"local": [[[30_000]]]}, ("", "")),
    ],
)
def test_the_page_shows_the_words_that_there_are(asset, kind, tokens, shown):
    trained = _trained(kind)[1]
    ids = {name: np.asarray(rows) for name, rows in tokens.items()}
    found = tuple("".join(words_shown(trained, ids, book, 0)) for book in ("global", "local"))
    assert found == shown


def test_spaes_layers_follow_one_another():
    trained = _trained("spae")[1]
    ids = {name: np.zeros((1, 1, 1), int) + i for i, name in enumerate(trained.tokenizer.codebooks)}
    assert "".join(words_shown(trained, ids, "local", 0)) == "abcdef"


@pytest.mark.parametrize(("kind", "fits"), [("v2l", True), ("vqgan_star", True), ("spae", False)])
def test_tasks_of_local_words_refuse_other_tokenizers(kind, fits):
    config, trained = _trained(kind)
    run = types.SimpleNamespace(config=config, tokenizer=trained.tokenizer)
    if fits:
        check_local_words.__wrapped__(run, "denoising")
    else:
        with pytest.raises(ConfigError, match="which the tokenizer spae does not write"):
            check_local_words.__wrapped__(run, "denoising")


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        ("vqgan", {}, "vqgan"),
        ("vqgan", {"quantizer": "fsq"}, "vqgan, fsq"),
        ("vqgan_star", {"vectors": "llm"}, "vqgan_star, llm"),
        ("lqae", {"language_model": "minilm-l6-v2"}, "lqae, minilm-l6-v2"),
        ("spae", {}, "spae"),
    ],
)
def test_rows_of_table_3_say_which_tokenizer(kind, changes, name):
    config = experiment.default()
    config.model.kind = kind
    config.model[kind].update(changes)
    assert tokenizer_name(config) == name
