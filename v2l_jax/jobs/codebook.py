"""Words and their vectors: expand the LLM's vocabulary, embed it, keep the words that photos are
near to.
"""

import functools
import pathlib
import shutil

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.embed import embed_texts
from v2l_jax.codebook.expand import expand, ngram_records, published_records
from v2l_jax.codebook.filter import count_hits, first_spellings, keep_frequent
from v2l_jax.codebook.templates import IMAGENET_TEMPLATES
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.parallel.processes import barrier, is_primary
from v2l_jax.run import features, loading, released_words
from v2l_jax.run.paths import candidates_path, global_path, local_path
from v2l_jax.run.shards import Arrays, Shards, concatenated
from v2l_jax.towers.image_text import ImageTextTower

EVERY_PROCESS = True
"""Several processes share this job; see `runner.run_jobs`."""
_TEXTS = 16_384  # of a shard at most
_SENTENCES = 131_072  # of a shard at most: texts times templates
_BATCHES = 16  # of words, of a shard


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether both codebooks are there."""
    del config
    return local_path(workdir).exists() and global_path(workdir).exists()


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes codebook/local.safetensors and codebook/global.safetensors; a stage whose file is there
    is not run again.
    """
    if config.model.released:
        if is_primary():
            _released(config, workdir)
        return
    photos = loading.photos(config)
    candidates = _candidates(config, workdir, together=True)
    images = features.cached(config, workdir, "train", photos.train, together=True)
    if not is_primary():
        return
    unigrams = sum(len(ids) == 1 for ids in candidates.token_ids)
    local = candidates.take(np.arange(min(unigrams, config.codebook.local_limit or unigrams)))
    local.save(local_path(workdir))
    kept = _filtered(config, candidates, images)
    kept.save(global_path(workdir))
    logging.info(
        "local codebook: %d words; global codebook: %d of %d candidates",
        len(local),
        len(kept),
        len(candidates),
    )


def _candidates(config: ConfigDict, workdir: pathlib.Path, together: bool) -> Codebook:
    """All n-grams with their vectors, read from the workdir, or made and written there; by all
    processes, where they call this together.
    """
    path = candidates_path(workdir)
    if path.exists():
        return Codebook.load(path)
    texts, ids, fingerprint = _expanded(config, workdir, together)
    tower = loading.image_text_tower(config)
    plain = list(dict.fromkeys(text.strip() for text in texts))  # " dog" and "dog" are one
    shards = _embedded(config, workdir, tower, plain, together)
    place = {text: row for row, text in enumerate(plain)}
    vectors = concatenated(shards)["vectors"][[place[text.strip()] for text in texts]]
    candidates = Codebook(vectors, tuple(texts), tuple(ids), tower.name, fingerprint)
    if together:
        barrier("candidates")  # all have read the shards
    if is_primary() or not together:
        candidates.save(path)
        shards.remove()
        shutil.rmtree(_expansion_folder(workdir), ignore_errors=True)
    return candidates


def _expansion_folder(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "codebook" / "expanded.shards"


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
        candidates = _candidates(config, workdir, together=False)
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


def _expanded(
    config: ConfigDict, workdir: pathlib.Path, together: bool
) -> tuple[list[str], list[tuple[int, ...]], str]:
    """Texts, token ids and the tokenizer's fingerprint."""
    if config.published or config.model.released:
        llm = loading.language_model(config)
        every = range(llm.tokenizer.vocab_size)[: config.codebook.vocabulary_limit or None]
        engine = llm.engine(loading.mesh(config), config.llm_options.token_budget)
        texts, ids = published_records(engine, llm.tokenizer, every)
        return texts, ids, llm.tokenizer.fingerprint
    tokenizer = loading.text_tokenizer(config)
    words = subwords(tokenizer, config.codebook.vocabulary_limit, config.codebook.word_initial)
    continuations = np.zeros((0, 2), np.int32)
    if config.codebook.ngrams > 1:
        expanded = words[: config.codebook.expand_limit or None]
        batch = config.codebook.expand_batch_size
        llm = functools.cache(lambda: loading.language_model(config))

        def make(start: int, stop: int) -> Arrays:
            one = llm()
            chosen = expand(one.model, one.params, tokenizer, expanded[start:stop], batch)
            return {"continuations": chosen}

        folder = _expansion_folder(workdir)
        shards = Shards(folder, len(expanded), _BATCHES * batch, make, together)
        continuations = concatenated(shards)["continuations"]
    texts, ids = ngram_records(tokenizer, words, continuations, config.codebook.ngrams)
    return texts, ids, tokenizer.fingerprint


def _embedded(
    config: ConfigDict,
    workdir: pathlib.Path,
    tower: ImageTextTower,
    texts: list[str],
    together: bool,
) -> Shards:
    """The vectors of all texts. A shard has as many as its sentences allow: with CLIP's 80 it takes
    minutes on a CPU, not half an hour.
    """
    templates = (
        IMAGENET_TEMPLATES
        if config.codebook.templates == "imagenet"
        else tuple(config.codebook.templates)
    )
    encode = lambda some: tower.encode_texts(some, config.codebook.embed_batch_size)

    def make(start: int, stop: int) -> Arrays:
        return {"vectors": embed_texts(encode, texts[start:stop], templates)}

    rows = min(_TEXTS, max(1, _SENTENCES // len(templates)))
    return Shards(workdir / "codebook" / "embedded_texts.shards", len(texts), rows, make, together)


def _filtered(config: ConfigDict, candidates: Codebook, images: np.ndarray) -> Codebook:
    """Stage 3; spellings are merged before counting, so that a word competes once for a photo's
    five nearest.
    """
    pool = np.arange(len(candidates))
    if config.codebook.merge_spellings:
        pool = first_spellings(candidates.texts)
    counts = count_hits(images, candidates.embeddings[pool], config.codebook.filter_top)
    return candidates.take(pool[keep_frequent(counts, config.codebook.filter_min_hits)])
