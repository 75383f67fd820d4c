"""V2L's global words: an image is written as the words of the global codebook that are nearest to
it (Zhu et al. 2024, section 3.2).

The paper shows the nearest words as they are; often they are one word five times (" Dog", " dog",
" dogs"), so the options choose among them.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.filter import count_hits, first_spellings, keep_frequent
from v2l_jax.data.sources import Source
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import FLAG, SHARE, one_of, option
from v2l_jax.representations.base import Ids, ImageSet, Representation, Segments, Text, Written
from v2l_jax.representations.token_choice import TokenChoice, choose_words, single_words
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json

Words = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Options of V2L's global words; the defaults are the paper's. The budget counts words."""

    of_tower: ClassVar[bool] = True

    vocabulary: str = option(
        "global",
        "'global': the run's global codebook; 'published': the same without merged spellings; "
        "'candidates': all that these were chosen from, the language model's n-grams",
        one_of("global", "published", "candidates"),
    )
    single_words: bool = option(False, "leave out words of several tokens", FLAG)
    selection: str = option(
        "nearest",
        "'nearest', as published, or 'diverse': no lemma twice, maximal marginal relevance",
        one_of("nearest", "diverse"),
    )
    mmr: float = option(0.8, "λ of 'diverse': 1 is relevance alone, less is more diverse", SHARE)
    adaptive: float = option(
        0.0, "leave out words below this share of the first word's similarity", SHARE
    )

    def fingerprint(self) -> dict[str, Scalar]:
        """The choice of words, such as "nearest, single", and the vocabulary."""
        words = f"diverse (mmr {self.mmr:g})" if self.selection == "diverse" else "nearest"
        words += ", single" if self.single_words else ""
        words += f", adaptive {self.adaptive:g}" if self.adaptive else ""
        return {"words": words, "vocabulary": self.vocabulary}

    def choice(self, count: int) -> TokenChoice:
        """The rule that picks `count` words."""
        diverse = self.selection == "diverse"
        return TokenChoice(
            count, diverse, float(self.mmr) if diverse else 1.0, float(self.adaptive)
        )

    def shortest(self, budget: int) -> Segments:
        """A token for each word; one word where those unlike the first are left out."""
        return (Ids((0,) * (1 if self.adaptive else budget)),)

    def codebook(self, run: Run) -> Codebook:
        """The words that are chosen from."""
        if self.vocabulary == "global":
            book = run.global_words
        elif self.vocabulary == "candidates":
            book = run.candidates
            if run.config.codebook.merge_spellings:
                book = book.take(first_spellings(book.texts))
        else:
            book, c = run.candidates, run.config.codebook
            hits = count_hits(
                run.split_features("train"), np.asarray(book.embeddings), c.filter_top
            )
            book = book.take(keep_frequent(hits, c.filter_min_hits))
        return single_words(book) if self.single_words else book

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Writes the words of each part of the images into the folder words/ of the workdir, unless
        they are there, or the tokenizer has written them already.
        """
        for name, part in images.parts:
            if _tokenized(self, run, name, budget) is None:
                _chosen(self, run, name, part, budget)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """A text for each word, nearest first, without white space around the whole; the published
        code leaves that there.
        """
        words: list[Words] = []
        for name, part in images.parts:
            known = _tokenized(self, run, name, budget)
            words += _chosen(self, run, name, part, budget) if known is None else known
        write = plain_texts if run.config.published else word_texts
        return Written(len(words), lambda index: write(words[index][:budget]))


def plain_texts(words: Words) -> Segments:
    """A text for each word, as it is."""
    return tuple(map(Text, words))


def word_texts(words: Words) -> Segments:
    """A text for each word; what is white space at the ends of the whole is left out."""
    joined = "".join(words)
    start, end = len(joined) - len(joined.lstrip()), len(joined.rstrip())
    texts, place = [], 0
    for word in words:
        texts.append(Text(joined[max(place, start) : min(place + len(word), end)]))
        place += len(word)
    return tuple(texts)


def _tokenized(options: Options, run: Run, name: str, budget: int) -> list[Words] | None:
    """The words that the tokenizer wrote for a split; None where it wrote none, too few, or
    others.
    """
    if options.fingerprint() != Options().fingerprint() or not run.has_tokens(name):
        return None
    ids, texts = run.tokens(name).get("global"), run.global_words.texts
    if ids is None or ids.shape[1] < budget:
        return None
    return [[texts[i] for i in row] for row in np.asarray(ids)[:, :budget]]


def _chosen(options: Options, run: Run, name: str, images: Source, budget: int) -> list[Words]:
    """At least `budget` words of each image, read from the workdir, or chosen and written there."""
    path = _path(options, run, name, images)
    kept = read_json(path, {"budget": 0})
    if kept["budget"] >= budget:
        return kept["words"]
    book, vectors = options.codebook(run), run.features(name, images)
    choice = options.choice(budget)
    if choice == TokenChoice(budget):
        ids = run.nearest_ids(vectors, min(budget, len(book)), book)
        words: list[Words] = [[book.texts[i] for i in row] for row in ids]
    else:
        words = list(choose_words(vectors, np.asarray(book.embeddings), book.texts, choice))
    with atomic_write(path) as draft:
        draft.write_text(json.dumps({"budget": budget, "words": words}), encoding="utf-8")
    return words


def _path(options: Options, run: Run, name: str, images: Source) -> pathlib.Path:
    """Where words chosen so lie; another codebook or tower has another file."""
    book = run.global_words
    known = [options.fingerprint(), book.tower, book.llm, len(book)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    return run.workdir / "words" / f"{run.file_name(name, images)}-{digest}.json"
