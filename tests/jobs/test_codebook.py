"""Which subwords become words, and how their texts are embedded."""

import numpy as np
import pytest

from v2l_jax import experiment
from v2l_jax.jobs import codebook
from v2l_jax.jobs.codebook import subwords
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.towers.image_text import ImageTextTower


@pytest.fixture(scope="module")
def tokenizer(asset):
    return load_text_tokenizer(asset("smollm2-135m-instruct"))


def test_all_visible_ordinary_subwords_in_order(tokenizer):
    words = subwords(tokenizer, 0, word_initial=False)
    assert words == sorted(words) and len(words) > 48_000
    assert not tokenizer.special_ids & set(words)
    assert all(
        tokenizer.token_text(i).strip() and "\ufffd" not in tokenizer.token_text(i) for i in words
    )
    assert subwords(tokenizer, 100, word_initial=False) == words[:100]


def test_fragments_can_be_left_out(tokenizer):
    kept = {tokenizer.token_text(i) for i in subwords(tokenizer, 0, word_initial=True)}
    assert {" dog", "dog", " pizza", " sushi"} <= kept
    assert "ization" not in kept and "ization" in {
        tokenizer.token_text(i) for i in subwords(tokenizer, 0, word_initial=False)
    }
    assert all(text.startswith(" ") or f" {text}" in kept for text in kept)


def test_texts_that_differ_in_white_space_are_embedded_once(tmp_path, monkeypatch):
    """Each template's sentence of "dog" is encoded once for " dog" and "dog", however far apart
    they stand, and the shards hold a bounded number of sentences.
    """
    texts, encoded = [" dog", "cat", "dog", "cat ", " the"], []

    def encode(sentences, batch_size):
        encoded.append(list(sentences))
        return np.asarray([[len(s), ord(s[-1])] for s in sentences], np.float32)

    nothing = lambda *_: None
    tower = ImageTextTower("tower", "conse", 8, 2, {}, nothing, nothing, encode)
    ids = [(i,) for i in range(len(texts))]
    monkeypatch.setattr(codebook, "_expanded", lambda *_: (texts, ids, "llm"))
    monkeypatch.setattr(codebook.loading, "image_text_tower", lambda config: tower)
    monkeypatch.setattr(codebook, "_SENTENCES", 4)
    config = experiment.default()
    config.codebook.templates = ("a {}", "the {}")
    found = codebook._candidates(config, tmp_path, together=False)
    assert encoded == [["a dog", "the dog", "a cat", "the cat"], ["a the", "the the"]]
    ends = {"dog": ord("g"), "cat": ord("t"), "the": ord("e")}
    expected = [[6.0, ends[text.strip()]] for text in texts]  # lengths 5 and 7
    np.testing.assert_array_equal(found.embeddings, np.asarray(expected, np.float32))
    assert found.texts == tuple(texts) and not list(tmp_path.glob("codebook/*.shards"))
