"""Which subwords become words."""

import pytest

from v2l_jax.jobs.codebook import subwords
from v2l_jax.llm.text_tokenizers import load_text_tokenizer


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
