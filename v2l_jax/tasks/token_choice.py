"""What each choice of words adds to few-shot classification, beside the paper's nearest words;
beyond the paper.

Every way to choose is measured twice: on training photos, where the best one is picked, and on
held-out ones, where it is reported; always on the same episodes, so that differences are paired.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.filter import count_hits, keep_frequent
from v2l_jax.data.episodes import Episode, draw_episodes
from v2l_jax.jobs import codebook
from v2l_jax.metrics.results import Result, Scalar, mean, proportion
from v2l_jax.options import POSITIVE, SHARE, each, number, option
from v2l_jax.report.data import TaskSection
from v2l_jax.representations.token_choice import (
    TokenChoice,
    choose_words,
    nearest_last,
    single_words,
)
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.classification import Scoring, check_lengths, classify, hits
from v2l_jax.tasks.few_shot import named_labels
from v2l_jax.tasks.token_choice_tables import token_choice_tables

POSITION = 30
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the study of token choice."""

    ways: tuple[int, ...] = option(
        (2, 5), "classes an episode", each(number(2, integer=True), least=1), in_row=True
    )
    shots: int = option(1, "examples a class", POSITIVE)
    episodes: int = option(
        400,
        "on training images, where the best choice is picked, and as many on held-out ones",
        POSITIVE,
    )
    tokens: int = option(5, "words an image", POSITIVE)
    mmr: tuple[float, ...] = option(
        (0.8, 0.65),
        "λ of maximal marginal relevance; smaller is more diverse",
        each(SHARE),
        in_row=True,
    )
    adaptive: tuple[float, ...] = option(
        (0.6, 0.8),
        "words below this share of the first word's similarity are left out",
        each(SHARE),
        in_row=True,
    )


PHOTOS = ("training", "held-out")
ACCURACY, ADDED, OVER_PAPER = (
    "token_choice_accuracy",
    "token_choice_added",
    "token_choice_over_paper",
)


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to choose words and to read answers.

    Attributes:
      name: as in results and tables.
      against: the way that it changes in one thing.
      choice: of words.
      book: "published" merges no spellings, "own" is the run's global codebook, "single words" is
        its unigrams.
      scoring: how answers are read; None asks no language model but takes the class of the shot
        that is most like the query.
      nearest_last: order shots by likeness to the query.
    """

    name: str
    against: str
    choice: TokenChoice
    book: Literal["published", "own", "single words"] = "own"
    scoring: Scoring | None = Scoring()
    nearest_last: bool = False


def ways_to_choose(c: ConfigDict) -> list[Way]:
    """The ways compared, each after the one it is compared with; the first is the paper's."""
    nearest = TokenChoice(c.tokens)
    merged = TokenChoice(c.tokens, merge=True)
    own, lemmas = "words of the run's codebook", "lemmas merged"
    ways = [
        Way("the paper's way", "", nearest, "published", Scoring("greedy", calibrate=False)),
        Way("likelihood", "the paper's way", nearest, "published", Scoring(calibrate=False)),
        Way("calibrated", "likelihood", nearest, "published"),
        Way("lemmas merged in the published codebook", "calibrated", merged, "published"),
        Way(own, "calibrated", nearest),
        Way(lemmas, own, merged),
        Way("single words", own, nearest, "single words"),
        Way("nearest shot last", own, nearest, nearest_last=True),
        Way(
            "no words: the class of the nearest shot",
            "the paper's way",
            nearest,
            scoring=None,
            nearest_last=True,
        ),
    ]
    ways += [
        Way(f"lemmas merged, mmr {x:g}", lemmas, dataclasses.replace(merged, mmr=float(x)))
        for x in c.mmr
    ]
    ways += [
        Way(
            f"lemmas merged, adaptive {x:g}", lemmas, dataclasses.replace(merged, adaptive=float(x))
        )
        for x in c.adaptive
    ]
    return ways


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row set for each way to choose, number of classes, and set of photos."""
    c = config.evaluate.token_choice
    fixed = {
        "shots": c.shots,
        "tokens": c.tokens,
        "episodes": f"{c.episodes} by seed {config.seed}",
    }
    keys = itertools.product(ways_to_choose(c), c.ways, PHOTOS)
    reader = lambda way: "nearest shot" if way.scoring is None else "language model"
    return [
        {
            "choice": way.name,
            "against": way.against,
            "reader": reader(way),
            "ways": ways,
            "photos": photos,
            **fixed,
        }
        for way, ways, photos in keys
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError if a class has too few photos for the episodes asked."""
    photos = loading.photos(config)
    for ways, kind in itertools.product(config.evaluate.token_choice.ways, PHOTOS):
        make_episodes(config, photos, ways, kind)


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of each missing way, what it adds to the way it changes, and to the paper's way:
    paired differences.
    """
    c, study = run.config.evaluate.token_choice, Study(run)
    by_name = {way.name: way for way in ways_to_choose(c)}
    for setting in missing:
        study.check_lengths(by_name[setting["choice"]], setting["ways"], setting["photos"])
    for setting in missing:
        way, where = by_name[setting["choice"]], (setting["ways"], setting["photos"])
        right = study.right(way, *where)
        rows = [proportion(ACCURACY, int(right.sum()), len(right))]
        if way.against:
            rows.append(mean(ADDED, right - study.right(by_name[way.against], *where)))
            rows.append(mean(OVER_PAPER, right - study.right(next(iter(by_name.values())), *where)))
        run.record("token_choice", setting, rows)


class Study:
    """Episodes, words and answers, each made once; answers are kept in the task's folder, so that a
    run can go on later.
    """

    def __init__(self, run: Run):
        self.run = run
        self.vectors = np.concatenate(
            [run.split_features(split) for split in ("train", "held_out")]
        )
        self._books: dict[str, Codebook] = {}
        self._words: dict[tuple[str, TokenChoice], list[tuple[str, ...]]] = {}
        self._episodes: dict[tuple[int, str], Sequence[Episode]] = {}

    def right(self, way: Way, ways: int, photos: str) -> Int[np.ndarray, " episodes"]:
        """1 for each episode that the language model answers correctly, else 0."""
        c, path = (
            self.run.config.evaluate.token_choice,
            self.run.folder("token_choice") / "right.json",
        )
        key = json.dumps(
            [self.run.config.llm, way.name, ways, photos, c.shots, c.tokens, c.episodes]
        )
        kept = read_json(path, {})
        if key not in kept:
            episodes, words = self.asked(way, ways, photos)
            label = f"{way.name}, {ways}-way, {photos} photos"
            if way.scoring is None:
                answers = [episode.shots[-1].class_name for episode in episodes]
            else:
                answers = classify(
                    self.run.engine, self.run.llm.tokenizer, episodes, words, way.scoring, label
                )
            kept[key] = hits(answers, episodes, way.scoring or Scoring()).astype(int).tolist()
            write_json(path, kept)
        return np.asarray(kept[key], np.int64)

    def check_lengths(self, way: Way, ways: int, photos: str) -> None:
        """Raises DataError for prompts that do not fit the model's context."""
        if way.scoring is not None:
            check_lengths(
                self.run.engine, self.run.llm.tokenizer, *self.asked(way, ways, photos), way.scoring
            )

    def asked(
        self, way: Way, ways: int, photos: str
    ) -> tuple[Sequence[Episode], Sequence[Sequence[str]]]:
        """Episodes in the order of their prompts, and the words of all photos."""
        if (ways, photos) not in self._episodes:
            self._episodes[ways, photos] = make_episodes(
                self.run.config, self.run.photos, ways, photos
            )
        episodes = self._episodes[ways, photos]
        if (way.book, way.choice) not in self._words:
            book = self.book(way.book)
            self._words[way.book, way.choice] = choose_words(
                self.vectors, np.asarray(book.embeddings), book.texts, way.choice
            )
        return nearest_last(episodes, self.vectors) if way.nearest_last else episodes, self._words[
            way.book, way.choice
        ]

    def book(self, name: str) -> Codebook:
        """A codebook by its name in `Way`."""
        if name not in self._books:
            self._books[name] = self._make_book(name)
        return self._books[name]

    def _make_book(self, name: str) -> Codebook:
        own, c = self.run.global_words, self.run.config.codebook
        if name == "own":
            return own
        if name == "single words":
            return single_words(own)
        candidates = Codebook.load(codebook.candidates_path(self.run.workdir))
        counts = count_hits(self.run.split_features("train"), candidates.embeddings, c.filter_top)
        return candidates.take(keep_frequent(counts, c.filter_min_hits))


def make_episodes(
    config: ConfigDict, photos: loading.Photos, ways: int, kind: str
) -> tuple[Episode, ...]:
    """Episodes over training photos, then held-out ones.

    Of each class half of the training photos are shots in both kinds; queries are the other half,
    or held-out photos.
    """
    c = config.evaluate.token_choice
    labels, names = named_labels(photos, {})
    first_held_out = len(photos.train.labels)
    rng = np.random.default_rng([config.seed, 1])
    shown, asked = [], []
    for label in range(len(names)):
        own = rng.permutation(np.flatnonzero(labels[:first_held_out] == label))
        shown += own[: len(own) // 2].tolist()
        asked += own[len(own) // 2 :].tolist()
    if kind == "held-out":
        asked = [i for i in range(first_held_out, len(labels)) if labels[i] >= 0]
    return draw_episodes(
        labels,
        names,
        ways,
        c.shots,
        c.episodes,
        config.seed,
        query_indices=asked,
        shot_indices=shown,
    )


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each number of classes."""
    del run
    lead = (
        "Photos are shown to the language model as a few words; which ones, and how its answer is read, is a choice. Each line changes "
        "one thing of the line named in it. All lines answer the same episodes, so “adds” is a paired difference, in points of "
        "accuracy with its 95 % interval. Choices were made by the training photos’ column alone; the other columns are held-out photos."
    )
    return TaskSection("token_choice", "Choosing words", lead, token_choice_tables(results))
