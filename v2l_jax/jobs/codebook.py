"""Words and their vectors: expand the LLM's vocabulary, embed it, keep the words that photos are
near to.
"""

import pathlib

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.embed import embed_texts
from v2l_jax.codebook.expand import expand, ngram_records, published_records
from v2l_jax.codebook.filter import count_hits, first_spellings, keep_frequent
from v2l_jax.codebook.templates import IMAGENET_TEMPLATES
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.run import features, loading, released_words
from v2l_jax.run.paths import candidates_path, global_path, local_path


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether both codebooks are there."""
    del config
    return local_path(workdir).exists() and global_path(workdir).exists()


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes codebook/local.safetensors and codebook/global.safetensors; a stage whose file is there
    is not run again.
    """
    if config.model.released:
        _released(config, workdir)
        return
    photos = loading.photos(config)
    candidates = _candidates(config, workdir)
    unigrams = sum(len(ids) == 1 for ids in candidates.token_ids)
    local = candidates.take(np.arange(min(unigrams, config.codebook.local_limit or unigrams)))
    local.save(local_path(workdir))
    kept = _filtered(config, candidates, features.cached(config, workdir, "train", photos.train))
    kept.save(global_path(workdir))
    logging.info(
        "local codebook: %d words; global codebook: %d of %d candidates",
        len(local),
        len(kept),
        len(candidates),
    )


def _candidates(config: ConfigDict, workdir: pathlib.Path) -> Codebook:
    """All n-grams with their vectors, read from the workdir, or made and written there."""
    path = candidates_path(workdir)
    if path.exists():
        return Codebook.load(path)
    candidates = _embedded(config, *_expanded(config))
    candidates.save(path)
    return candidates


def _released(config: ConfigDict, workdir: pathlib.Path) -> None:
    """The codebooks of a tokenizer that the published code trained. With a word list, the words
    that others are compared with are those of the list.
    """
    vectors, tower = released_words.word_vectors(config), loading.image_text_tower(config).name
    local = released_words.local_codebook(config, vectors["local"], tower)
    if config.model.released_words:
        kept = released_words.listed_global_codebook(config, vectors["global"], tower)
        kept.save(candidates_path(workdir))
    else:
        candidates = _candidates(config, workdir)
        kept = released_words.rebuilt_global_codebook(config, vectors["global"], candidates)
    local.save(local_path(workdir))
    kept.save(global_path(workdir))
    logging.info("%s: %d local and %d global words", config.model.released, len(local), len(kept))


def subwords(tokenizer: TextTokenizer, limit: int, word_initial: bool) -> list[int]:
    """The subwords that become words, in the order of the vocabulary.

    Args:
      tokenizer: the language model's.
      limit: keep the first so many; 0 keeps all.
      word_initial: keep only those that can begin a word (they, or their twin with a space before,
        are in the vocabulary); leaves out fragments such as "ization".
    """
    texts = tokenizer.token_texts()
    begin = {text.lstrip() for text in texts if text.startswith(" ")}
    chosen = [
        i
        for i, text in enumerate(texts)
        if i not in tokenizer.special_ids
        and text.strip()
        and "\ufffd" not in text
        and (not word_initial or text.lstrip() in begin)
    ]
    return chosen[: limit or None]


def _expanded(config: ConfigDict) -> tuple[list[str], list[tuple[int, ...]], str]:
    llm = loading.language_model(config)
    if config.published or config.model.released:
        every = range(llm.tokenizer.vocab_size)[: config.codebook.vocabulary_limit or None]
        engine = llm.engine(loading.mesh(config), config.llm_options.token_budget)
        texts, ids = published_records(engine, llm.tokenizer, every)
        return texts, ids, llm.tokenizer.fingerprint
    words = subwords(llm.tokenizer, config.codebook.vocabulary_limit, config.codebook.word_initial)
    continuations = np.zeros((0, 2), np.int32)
    if config.codebook.ngrams > 1:
        expanded = words[: config.codebook.expand_limit or None]
        continuations = expand(
            llm.model, llm.params, llm.tokenizer, expanded, config.codebook.expand_batch_size
        )
    texts, ids = ngram_records(llm.tokenizer, words, continuations, config.codebook.ngrams)
    return texts, ids, llm.tokenizer.fingerprint


def _embedded(
    config: ConfigDict, texts: list[str], ids: list[tuple[int, ...]], fingerprint: str
) -> Codebook:
    tower = loading.image_text_tower(config)
    templates = (
        IMAGENET_TEMPLATES
        if config.codebook.templates == "imagenet"
        else tuple(config.codebook.templates)
    )
    embeddings = embed_texts(
        lambda t: tower.encode_texts(t, config.codebook.embed_batch_size), texts, templates
    )
    return Codebook(embeddings, tuple(texts), tuple(ids), tower.name, fingerprint)


def _filtered(config: ConfigDict, candidates: Codebook, images: np.ndarray) -> Codebook:
    """Stage 3; spellings are merged before counting, so that a word competes once for a photo's
    five nearest.
    """
    pool = np.arange(len(candidates))
    if config.codebook.merge_spellings:
        pool = first_spellings(candidates.texts)
    counts = count_hits(images, candidates.embeddings[pool], config.codebook.filter_top)
    return candidates.take(pool[keep_frequent(counts, config.codebook.filter_min_hits)])
