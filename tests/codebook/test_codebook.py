"""The Codebook file: whole or not at all, and never mixed with another language model."""

import jax
import numpy as np
import pytest

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import CheckpointError, ConfigError


def make_codebook(words: int = 5) -> Codebook:
    rng = np.random.default_rng(0)
    texts = (" dog", "pup", "\n", "…", " golden retriever")[:words]
    ids = ((3,), (7,), (1,), (9, 11), (4, 5, 6))[:words]
    return Codebook(
        rng.normal(size=(words, 8)).astype(np.float32), texts, ids, tower="t", llm="f00d"
    )


def test_saves_and_loads_itself(tmp_path):
    book = make_codebook()
    book.save(tmp_path / "a" / "book.safetensors")
    loaded = Codebook.load(tmp_path / "a" / "book.safetensors")
    np.testing.assert_array_equal(loaded.embeddings, book.embeddings)
    assert (loaded.texts, loaded.token_ids, loaded.tower, loaded.llm) == (
        book.texts,
        book.token_ids,
        "t",
        "f00d",
    )
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["book.safetensors"]


def test_is_a_pytree_of_its_embeddings():
    doubled = jax.tree.map(lambda x: 2 * x, make_codebook())
    np.testing.assert_array_equal(doubled.embeddings, 2 * make_codebook().embeddings)
    assert doubled.texts == make_codebook().texts


def test_take_keeps_rows_together():
    taken = make_codebook().take(np.array([4, 0]))
    assert taken.texts == (" golden retriever", " dog") and taken.token_ids == ((4, 5, 6), (3,))
    np.testing.assert_array_equal(taken.embeddings, make_codebook().embeddings[[4, 0]])


def test_refuses_another_language_model():
    make_codebook().check_made_for("f00d")
    with pytest.raises(ConfigError, match=r"f00d.*beef.*fresh workdir"):
        make_codebook().check_made_for("beef")


@pytest.mark.parametrize("keep", [0, 7, 60, 400])
def test_truncated_or_missing_file_is_one_clear_error(tmp_path, keep):
    path = tmp_path / "book.safetensors"
    make_codebook().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="book.safetensors"):
        Codebook.load(path)
    with pytest.raises(CheckpointError, match="absent"):
        Codebook.load(tmp_path / "absent")
