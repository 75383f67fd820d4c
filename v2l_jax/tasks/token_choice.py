"""What each choice of words adds to few-shot classification, beside the paper's nearest words;
beyond the paper.

Every way to choose is measured twice: on training photos, where the best one is picked, and on
held-out ones, where it is reported; always on the same episodes, so that differences are paired.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.data.episodes import Episode, draw_episodes
from v2l_jax.metrics.results import Result, Scalar, mean, proportion
from v2l_jax.options import POSITIVE, SHARE, each, number, option
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.tables import Number, TableSpec, render, with_fields
from v2l_jax.representations.base import ImageSet, Segments
from v2l_jax.representations.v2l_words import Options as Words
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.few_shot import Scoring, answering, hits, make_prompts
from v2l_jax.tasks.harness import loop
from v2l_jax.tasks.harness.answers import Given
from v2l_jax.tasks.harness.classes import named_labels, nearest_last
from v2l_jax.tasks.harness.fit import check_prompts_fit

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
ACCURACY, ADDED, OVER_FIRST = (
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
      words: how images are written.
      scoring: how answers are read; None asks no language model but takes the class of the shot
        that is most like the query.
      nearest_last: order shots by likeness to the query.
    """

    name: str
    against: str
    words: Words = Words()
    scoring: Scoring | None = Scoring()
    nearest_last: bool = False


def ways_to_choose(c: ConfigDict) -> list[Way]:
    """The ways compared, each after the one it is compared with. The first is the paper's choice
    and scoring over the run's own n-grams, which `config.published` would make otherwise.
    """
    published, merged = Words("published"), Words(selection="diverse", mmr=1.0)
    merged_published = Words("published", selection="diverse", mmr=1.0)
    first, own, lemmas = "nearest words, greedy", "words of the run's codebook", "lemmas merged"
    ways = [
        Way(first, "", published, Scoring("greedy", calibrate=False)),
        Way("likelihood", first, published, Scoring(calibrate=False)),
        Way("calibrated", "likelihood", published),
        Way("lemmas merged in the published codebook", "calibrated", merged_published),
        Way(own, "calibrated"),
        Way(lemmas, own, merged),
        Way("single words", own, Words(single_words=True)),
        Way("nearest shot last", own, nearest_last=True),
        Way("no words: the class of the nearest shot", first, scoring=None, nearest_last=True),
    ]
    for x in map(float, c.mmr):
        words = dataclasses.replace(merged, mmr=x)
        ways.append(Way(f"lemmas merged, mmr {x:g}", lemmas, words))
    for x in map(float, c.adaptive):
        words = dataclasses.replace(merged, adaptive=x)
        ways.append(Way(f"lemmas merged, adaptive {x:g}", lemmas, words))
    return ways


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row set for each way to choose, number of classes, and set of photos."""
    c = config.evaluate.token_choice
    fixed = {
        "shots": c.shots,
        "tokens": c.tokens,
        "episodes": f"{c.episodes} by seed {config.seed}",
    }
    return [
        {
            "choice": way.name,
            "against": way.against,
            "reader": "nearest shot" if way.scoring is None else "language model",
            "ways": ways,
            "photos": photos,
            **fixed,
        }
        for way in ways_to_choose(c)
        for ways in c.ways
        for photos in PHOTOS
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError for prompts that cannot fit, or a class that has too few photos for the
    episodes asked, where labels are known before images are read.
    """
    photos = loading.photos(config)
    if not photos.labels_at_hand:
        return
    c, written = config.evaluate.token_choice, Words()
    for ways, kind in itertools.product(c.ways, PHOTOS):
        episodes = make_episodes(config, photos, ways, kind)
        images = [written.shortest(c.tokens)] * (len(photos.train) + len(photos.held_out))
        prompts = make_prompts(episodes, images, Scoring())
        label = f"{ways}-way, {kind} photos"
        check_prompts_fit(config, label, (prompt.whole for prompt in prompts))


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of each missing way, what it adds to the way it changes, and to the first way:
    paired differences.
    """
    study = Study(run)
    by_name = {way.name: way for way in ways_to_choose(run.config.evaluate.token_choice)}
    places = [(by_name[s["choice"]], s["ways"], s["photos"]) for s in missing]
    loop.check_lengths(run, (study.questions(*place) for place in places))
    for setting, (way, *where) in zip(missing, places, strict=True):
        right = study.right(way, *where)
        rows = [proportion(ACCURACY, int(right.sum()), len(right))]
        if way.against:
            rows.append(mean(ADDED, right - study.right(by_name[way.against], *where)))
            rows.append(mean(OVER_FIRST, right - study.right(next(iter(by_name.values())), *where)))
        run.record("token_choice", setting, rows)


class Study:
    """Episodes, written images and answers, each made once; answers are kept in the task's folder,
    so that a run can go on later.
    """

    def __init__(self, run: Run):
        self.run = run
        self.images = ImageSet.own(run)
        self.vectors = self.images.image_embeddings(run)
        self._written: dict[Words, Sequence[Segments]] = {}
        self._episodes: dict[tuple[int, str], Sequence[Episode]] = {}

    def right(self, way: Way, ways: int, photos: str) -> Int[np.ndarray, " episodes"]:
        """1 for each episode that the language model answers correctly, else 0."""
        c = self.run.config.evaluate.token_choice
        path = self.run.folder("token_choice") / "right.json"
        key = json.dumps(
            [self.run.config.llm, way.name, ways, photos, c.shots, c.tokens, c.episodes]
        )
        kept = read_json(path, {})
        if key not in kept:
            answers = loop.answers(self.run, self.questions(way, ways, photos))
            episodes = self.episodes(way, ways, photos)
            kept[key] = hits(answers, episodes, way.scoring or Scoring()).astype(int).tolist()
            write_json(path, kept)
        return np.asarray(kept[key], np.int64)

    def questions(self, way: Way, ways: int, photos: str) -> loop.Questions:
        """What a way asks about a set of photos."""
        episodes = self.episodes(way, ways, photos)
        label = f"{way.name}, {ways}-way, {photos} photos"
        if way.scoring is None:
            named = [episode.shots[-1].class_name for episode in episodes]
            return loop.Questions(label, [], Given(named), lambda answers: [])
        if way.words not in self._written:
            tokens = self.run.config.evaluate.token_choice.tokens
            self._written[way.words] = way.words.segments(self.run, self.images, tokens)
        prompts = make_prompts(episodes, self._written[way.words], way.scoring)
        how = answering(episodes, prompts, way.scoring)
        return loop.Questions(label, [p.whole for p in prompts], how, lambda answers: [])

    def episodes(self, way: Way, ways: int, photos: str) -> Sequence[Episode]:
        """Episodes in the order of their prompts."""
        if (ways, photos) not in self._episodes:
            self._episodes[ways, photos] = make_episodes(
                self.run.config, self.run.photos, ways, photos
            )
        episodes = self._episodes[ways, photos]
        return nearest_last(episodes, self.vectors) if way.nearest_last else episodes


def make_episodes(
    config: ConfigDict, photos: loading.Photos, ways: int, kind: str
) -> tuple[Episode, ...]:
    """Episodes over training photos, then held-out ones.

    Of each class half of the training photos are shots in both kinds; queries are the other half,
    or held-out photos.
    """
    c = config.evaluate.token_choice
    labels, names = named_labels(photos, {})
    first_held_out = len(photos.train)
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


_COLUMNS = {
    ("training", ACCURACY): "Training photos",
    ("held-out", ACCURACY): "Held-out photos",
    ("held-out", ADDED): "Adds to that",
    ("held-out", OVER_FIRST): "Adds to the first line",
}
_SETTING = ("llm", "dataset", "shots", "tokens", "episodes")
TABLE = TableSpec(
    caption=(
        "{ways}-way {shots}-shot accuracy in percent, {llm}, {dataset}, {count} episodes each"
    ),
    rows=("row",),
    columns=("photos", "metric"),
    tables=(*_SETTING, "ways"),
    labels={("photos", "metric"): _COLUMNS},
    corner="Way to choose",
    all_columns=True,
    numbers={
        ACCURACY: Number(1, scale=100.0, between=" to "),
        ADDED: Number(1, scale=100.0, sign="+", between=" to "),
        OVER_FIRST: Number(1, scale=100.0, sign="+", between=" to "),
    },
)


def tables(results: Sequence[Result]) -> list[Table]:
    """One table for each number of ways; the way with the best accuracy on training photos, over
    all ways, is marked.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.measured_on.get(k) for k in _SETTING), []).append(result)
    shown = []
    for members in groups.values():
        best = best_choice(members)
        for result in members:
            if (result.measured_on["photos"], result.metric) in _COLUMNS:
                shown.append(with_fields(result, row=_row(result, best)))
    return render(shown, TABLE)


def _row(result: Result, best: str | None) -> str:
    choice, against = (str(result.measured_on[key]) for key in ("choice", "against"))
    notes = [f"changes: {against}"] * bool(against) + ["best on training photos"] * (choice == best)
    return "\n".join([choice, *notes])


def best_choice(results: Sequence[Result]) -> str | None:
    """The choice with the highest mean accuracy on training photos over all numbers of ways
    measured; the earlier of equals.

    What asks no language model is there to compare with, and cannot be picked.
    """
    found: dict[str, list[float]] = {}
    for result in results:
        on = result.measured_on
        if (result.metric, on["photos"], on["reader"]) == (
            "token_choice_accuracy",
            "training",
            "language model",
        ):
            found.setdefault(str(on["choice"]), []).append(result.value)
    most = max(map(len, found.values()), default=0)
    whole = {choice: sum(values) for choice, values in found.items() if len(values) == most}
    return max(whole, key=whole.__getitem__) if whole else None


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each number of classes."""
    del run
    lead = (
        "Photos are shown to the language model as a few words; which ones, and how its answer is "
        "read, is a choice. Each line changes one thing of the line named in it. All lines answer "
        "the same episodes, so “adds” is a paired difference, in points of accuracy with its 95 % "
        "interval. Choices were made by the training photos’ column alone; the other columns are "
        "held-out photos."
    )
    return TaskSection("token_choice", "Choosing words", lead, tables(results))
