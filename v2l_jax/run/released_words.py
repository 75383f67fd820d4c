"""Codebooks of a tokenizer that the published code trained: vectors from its checkpoint, texts from
its word list or from the language model.
"""

import pathlib

import numpy as np
from absl import logging
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.formats.numpy_files import read_npy
from v2l_jax.formats.text_files import read_text
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.run import loading
from v2l_jax.tokenizers.reference import read_reference

LOCAL, GLOBAL = "tok_embeddings.weight", "tok_embeddings_global.weight"
_SAME = 0.99
"""Least cosine of a global word's vector with that of its text, made anew."""


def word_vectors(config: ConfigDict) -> dict[str, Float[np.ndarray, "words dim"]]:
    """The vectors of `config.model.released`, "local" and "global".

    Raises:
      ConfigError: the checkpoint has none, or as many as fit no tower or language model of the run.
    """
    path = loading.locate(config.model.released)
    arrays = read_reference(path)
    missing = [name for name in (LOCAL, GLOBAL) if name not in arrays]
    if missing:
        raise ConfigError(f"{path} is no V2L checkpoint of the published code: no {missing[0]}")
    return {
        "local": np.asarray(arrays[LOCAL], np.float32),
        "global": np.asarray(arrays[GLOBAL], np.float32),
    }


def local_codebook(
    config: ConfigDict, vectors: Float[np.ndarray, "words dim"], tower: str
) -> Codebook:
    """The local words: the language model's subwords in order, each decoded alone.

    Raises:
      ConfigError: the language model has another number of subwords.
    """
    tokenizer = loading.text_tokenizer(config)
    if len(vectors) != tokenizer.vocab_size:
        raise ConfigError(
            f"{config.model.released} has {len(vectors)} local words, but {config.llm} has "
            f"{tokenizer.vocab_size} subwords; name the language model that it was made for"
        )
    ids = range(tokenizer.vocab_size)
    texts = tuple(tokenizer.decode([i]) for i in ids)
    return Codebook(vectors, texts, tuple((i,) for i in ids), tower, tokenizer.fingerprint)


def listed_global_codebook(
    config: ConfigDict, vectors: Float[np.ndarray, "words dim"], tower: str
) -> Codebook:
    """The global words with the texts of `config.model.released_words`.

    Raises:
      ConfigError: the list is missing, or has another number of words.
    """
    path = loading.locate(config.model.released_words)
    texts = read_word_list(path)
    if len(texts) != len(vectors):
        raise ConfigError(
            f"{path} has {len(texts)} words, but {config.model.released} has {len(vectors)} global "
            "ones; give the list that belongs to it"
        )
    tokenizer = loading.text_tokenizer(config)
    ids = tuple(tuple(tokenizer.encode(text)) for text in texts)
    return Codebook(vectors, texts, ids, tower, tokenizer.fingerprint)


def read_word_list(path: pathlib.Path) -> tuple[str, ...]:
    """The texts of a .npy array of strings, or of a text file, one a line.

    Raises:
      ConfigError: the array holds pickled objects or something else than strings.
    """
    if path.suffix != ".npy":
        return tuple(read_text(path, ConfigError).splitlines())
    remedy = (
        "if it holds Python objects, it cannot be read without executing it: write its words into "
        "a text file, one a line: numpy.savetxt('words.txt', array, fmt='%s', encoding='utf-8')"
    )
    texts = read_npy(path, ConfigError, remedy)
    if texts.dtype.kind != "U":
        raise ConfigError(f"{path} holds {texts.dtype}, not words")
    return tuple(map(str, texts.ravel()))


def rebuilt_global_codebook(
    config: ConfigDict, vectors: Float[np.ndarray, "words dim"], candidates: Codebook
) -> Codebook:
    """The global words with the texts of the candidates whose vectors they are.

    Args:
      config: the whole experiment.
      vectors: of the checkpoint.
      candidates: the language model's n-grams, embedded by the run's tower.

    Raises:
      ConfigError: less than half of the vectors are a candidate's.
    """
    known = unit_vectors(np.asarray(candidates.embeddings, np.float32))
    wanted = unit_vectors(vectors)
    rows, cosines = [], []
    for start in range(0, len(wanted), 1024):
        products = wanted[start : start + 1024] @ known.T
        rows.append(products.argmax(1))
        cosines.append(products.max(1))
    row, same = np.concatenate(rows), np.concatenate(cosines) >= _SAME
    logging.info(
        "%d of %d global words have the vector of one of the language model's n-grams",
        same.sum(),
        len(same),
    )
    if same.mean() < 0.5:
        raise ConfigError(
            f"only {same.sum()} of the {len(same)} global words of {config.model.released} are "
            f"n-grams that {config.llm} writes and {candidates.tower} embeds; name the models that "
            "it was made with, or its word list (config.model.released_words)"
        )
    chosen = candidates.take(row)
    texts = tuple(text if s else "" for text, s in zip(chosen.texts, same, strict=True))
    ids = tuple(i if s else () for i, s in zip(chosen.token_ids, same, strict=True))
    return Codebook(vectors, texts, ids, candidates.tower, candidates.llm)
