"""Rows of a codebook ⇄ tokens of the language model."""

import numpy as np
import pytest

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.errors import ConfigError


def test_words_are_one_token_each():
    book = Codebook(np.zeros((3, 2), np.float32), ("b", "a", "c"), ((9,), (4,), (7,)), "conse", "x")
    vocabulary = SingleTokens.of(book)
    np.testing.assert_array_equal(vocabulary.token_ids, [9, 4, 7])
    np.testing.assert_array_equal(vocabulary.rows(np.asarray([[4, 9], [7, 7]])), [[1, 0], [2, 2]])
    for token_ids, message in (
        (((9,), (4, 5), (7,)), "not one token"),
        (((9,), (4,), (9,)), "same token"),
    ):
        with pytest.raises(ConfigError, match=message):
            SingleTokens.of(Codebook(book.embeddings, book.texts, token_ids, "conse", "x"))
