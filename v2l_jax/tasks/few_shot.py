"""Few-shot classification: the language model names a photo after a few examples, all of them words
(Zhu et al. 2024, Table 1).
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from v2l_jax.data.episodes import (
    Episode,
    EpisodeFile,
    EpisodePhotos,
    draw_episodes,
    join_episode_files,
    read_class_names,
    read_episode_csv,
    rename_classes,
)
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.metrics.results import Result, Scalar, proportion, read_results
from v2l_jax.options import (
    CONTROLS,
    COUNT,
    FLAG,
    NAME,
    POSITIVE,
    SHARE,
    TEXT,
    each,
    entries,
    number,
    one_of,
    one_or_more,
    option,
)
from v2l_jax.report.data import TaskSection
from v2l_jax.report.rows import as_rows
from v2l_jax.representations.token_choice import (
    TokenChoice,
    choose_words,
    nearest_last,
    single_words,
)
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import write_json
from v2l_jax.tasks.classification import (
    Scoring,
    check_lengths,
    classify,
    derangement,
    hits,
    make_prompts,
)
from v2l_jax.tasks.table_1 import TABLE_1, Prompting, table_1, table_text

POSITION = 20
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of few-shot classification."""

    ways: tuple[int, ...] = option(
        (2, 5), "classes an episode", each(number(2, integer=True), least=1), in_row=True
    )
    shots: tuple[int, ...] = option(
        (1, 3, 5), "examples a class", each(POSITIVE, least=1), in_row=True
    )
    repetitions: int | tuple[int, ...] = option(
        0, "how often the examples are shown again", one_or_more(COUNT), in_row=True
    )
    induction: bool | tuple[bool, ...] = option(
        True, "whether the task is stated first", one_or_more(FLAG), in_row=True
    )
    table_1: bool = option(
        False,
        "of shots × repetitions × induction, only the columns of the paper's Table 1",
        FLAG,
        in_row=True,
    )
    tokens: int | tuple[int, ...] = option(5, "words an image", one_or_more(POSITIVE), in_row=True)
    rule: str | tuple[str, ...] = option(
        "greedy",
        "'greedy', the published rule; 'constrained' to whole class names; or 'likelihood'",
        one_or_more(one_of("likelihood", "greedy", "constrained")),
        in_row=True,
    )
    calibrate: bool = option(
        False, "contextual calibration of 'likelihood'; the published way is False", FLAG
    )
    single_words: bool = option(
        False, "leave out words of several tokens; the published way is False", FLAG
    )
    selection: str = option(
        "nearest",
        "of words: 'nearest', as published, or 'diverse': no lemma twice, maximal marginal relevance",
        one_of("nearest", "diverse"),
    )
    mmr: float = option(0.8, "λ of 'diverse': 1 is relevance alone, less is more diverse", SHARE)
    adaptive: float = option(
        0.0, "leave out words below this share of the first word's similarity", SHARE
    )
    ordering: str = option(
        "random",
        "of shots: 'random', or 'nearest_last' to the query",
        one_of("random", "nearest_last"),
    )
    episodes: int = option(1000, "episodes a row", POSITIVE)
    controls: tuple[str, ...] = option(
        ("shuffled",),
        "no_tokens: no words; shuffled: words of another image",
        CONTROLS,
        in_row=True,
    )
    control_shots: tuple[int, ...] = option(
        (1, 3, 5), "shots at which the controls run too", each(POSITIVE), in_row=True
    )
    episode_file: str = option(
        "",
        "published episodes instead of drawn ones, such as 'fewshot_split/{ways}_way_{shots}_shot.csv'",
        TEXT,
    )
    episode_photos: str = option("", "the folder that their lines start from", TEXT)
    class_names: dict[str, str] = option(
        {}, "what to call a class; WordNet ids have names already", entries(NAME)
    )


_WORDNET_ID = re.compile(r"n\d{8}")


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row for each way to ask, and for each control at the shots that `control_shots` names."""
    c = config.evaluate.few_shot
    rows = []
    for tokens, rule in itertools.product(_several(c.tokens), _several(c.rule)):
        fixed = {
            "tokens": tokens,
            "rule": rule,
            "calibrate": c.calibrate and rule == "likelihood",
            "words": words_label(token_choice(c, tokens), c.single_words),
            "ordering": c.ordering,
            "episodes": f"{c.episodes} by seed {config.seed}",
        }
        if c.episode_file:
            file, photos = (
                pathlib.PurePath(c.episode_file).name,
                pathlib.PurePath(c.episode_photos).name,
            )
            fixed |= {"episodes": f"first {c.episodes} of {file}", "dataset": photos}
        cells = [(ways, prompting, "none") for ways in c.ways for prompting in promptings(c)]
        plain = (_several(c.repetitions)[0], _several(c.induction)[0])
        for ways, shots, control in itertools.product(c.ways, c.control_shots, c.controls):
            cells.append((ways, Prompting(shots, *plain), control))
        rows += [
            {"ways": ways, **prompting._asdict(), "control": control, **fixed}
            for ways, prompting, control in cells
        ]
    return rows


def promptings(c: ConfigDict) -> list[Prompting]:
    """Shots, repetitions and induction in all combinations; with `table_1`, those that are columns
    of the paper's Table 1.
    """
    combinations = itertools.product(c.shots, _several(c.repetitions), _several(c.induction))
    chosen = [Prompting(*combination) for combination in combinations]
    return [prompting for prompting in TABLE_1 if prompting in chosen] if c.table_1 else chosen


def token_choice(c: ConfigDict, tokens: int) -> TokenChoice:
    """How the task's options pick an image's words: the nearest, or merged by lemma and diverse."""
    diverse = c.selection == "diverse"
    return TokenChoice(tokens, diverse, float(c.mmr) if diverse else 1.0, float(c.adaptive))


def words_label(choice: TokenChoice, single: bool) -> str:
    """What results call a choice of words: "nearest" is the paper's way."""
    selection = f"diverse (mmr {choice.mmr:g})" if choice.merge else "nearest"
    selection += ", single" if single else ""
    return selection + (f", adaptive {choice.adaptive:g}" if choice.adaptive else "")


def _several(value: Scalar | Sequence[Scalar]) -> tuple[Scalar, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def check(config: ConfigDict) -> None:
    """Raises ConfigError for options that clash, DataError for too few photos, missing files or
    classes without a name.
    """
    c = config.evaluate.few_shot
    if not promptings(c):
        raise ConfigError(
            "config.evaluate.few_shot.table_1 is True, but no shots, repetitions and induction asked for are in Table 1"
        )
    shots = {*c.shots, *(c.control_shots if c.controls else ())}
    if c.episode_file:
        files = read_files(config)
        if wanted := {(ways, k) for ways in c.ways for k in shots} - files.keys():
            raise ConfigError(
                f"config.evaluate.few_shot.control_shots asks for {sorted(wanted)} (ways, shots), which shots lacks"
            )
        EpisodePhotos(next(iter(files.values())).paths)
        return
    photos = loading.photos(config)
    for ways, k in itertools.product(c.ways, sorted(shots)):
        make_episodes(config, photos, ways, k)


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of every missing row, with Wilson's interval; that all prompts fit the model is
    checked first.
    """
    asked = Asked(run)
    asked.check_lengths(missing)
    for setting in missing:
        episodes, words, scoring = asked.how(setting)
        answers = classify(run.engine, run.llm.tokenizer, episodes, words, scoring, label(setting))
        right = hits(answers, episodes, scoring)
        run.record(
            "few_shot", setting, [proportion("few_shot_accuracy", int(right.sum()), len(episodes))]
        )
        path = run.folder("few_shot") / "example.json"
        if setting["control"] == "none" and not path.exists():
            prompt = str(make_prompts(episodes[:1], words, scoring)[0])
            write_json(
                path,
                {"prompt": prompt, "answer": answers[0], "expected": episodes[0].query.class_name},
            )
    for table in table_1(as_rows(read_results(run.workdir / "results.json"))):
        logging.info("%s", table_text(table))


def label(setting: dict[str, Scalar]) -> str:
    """A setting in words, for progress and errors."""
    parts = [f"{setting['ways']}-way {setting['shots']}-shot"]
    parts += [f"repeated {setting['repetitions']}×"] * bool(setting["repetitions"]) + [
        "no induction"
    ] * (not setting["induction"])
    parts += [f"{setting['tokens']} tokens", str(setting["rule"])]
    parts += [str(setting["control"]).replace("_", " ")] * (setting["control"] != "none")
    return ", ".join(parts)


class Asked:
    """What the settings of a run ask: episodes, words and vectors of their photos, each made once.

    Attributes:
      vectors: the tower's vectors of all photos that episodes index: those of the episode files, or
        training ones, then held-out ones.
    """

    def __init__(self, run: Run):
        self.run = run
        self._files = read_files(run.config) if run.config.evaluate.few_shot.episode_file else {}
        self._words: dict[int, list[tuple[str, ...]]] = {}
        self._episodes: dict[tuple[int, int], tuple[Episode, ...]] = {
            key: file.episodes for key, file in self._files.items()
        }
        self.vectors: Float[np.ndarray, "images dim"] = (
            run.features("few_shot", EpisodePhotos(next(iter(self._files.values())).paths))
            if self._files
            else np.concatenate([run.split_features(split) for split in ("train", "held_out")])
        )

    def words(self, tokens: int) -> list[tuple[str, ...]]:
        """The words of all photos."""
        if tokens not in self._words:
            c = self.run.config.evaluate.few_shot
            book, choice = self.run.global_words, token_choice(c, tokens)
            book = single_words(book) if c.single_words else book
            self._words[tokens] = choose_words(
                self.vectors, np.asarray(book.embeddings), book.texts, choice
            )
        return self._words[tokens]

    def episodes(self, ways: int, shots: int) -> tuple[Episode, ...]:
        """Episodes in the order they are read or drawn."""
        if (ways, shots) not in self._episodes:
            self._episodes[ways, shots] = make_episodes(
                self.run.config, self.run.photos, ways, shots
            )
        return self._episodes[ways, shots]

    def how(
        self, setting: dict[str, Scalar]
    ) -> tuple[Sequence[Episode], Sequence[Sequence[str]], Scoring]:
        """Episodes, words and scoring of a setting. Under a control, order tells as little of a
        photo as words do.
        """
        episodes, words, vectors = (
            self.episodes(setting["ways"], setting["shots"]),
            self.words(setting["tokens"]),
            self.vectors,
        )
        if setting["control"] == "shuffled":
            other = derangement(len(words), self.run.config.seed)
            words, vectors = [words[i] for i in other], vectors[other]
        if setting["control"] == "no_tokens":
            words = [()] * len(words)
        elif setting["ordering"] == "nearest_last":
            episodes = nearest_last(episodes, vectors)
        return (
            episodes,
            words,
            Scoring(*(setting[key] for key in ("rule", "calibrate", "induction", "repetitions"))),
        )

    def check_lengths(self, settings: Sequence[dict[str, Scalar]]) -> None:
        """Raises DataError that names every setting with prompts that do not fit the model's
        context.
        """
        problems = []
        for setting in settings:
            episodes, words, scoring = self.how(setting)
            try:
                check_lengths(self.run.engine, self.run.llm.tokenizer, episodes, words, scoring)
            except DataError as error:
                problems.append(f"{label(setting)}: {error}")
        if problems:
            raise DataError("; ".join(problems))


def make_episodes(
    config: ConfigDict, photos: loading.Photos, ways: int, shots: int
) -> tuple[Episode, ...]:
    """Episodes whose shots are training photos and whose queries are held-out ones; training photos
    are numbered first.
    """
    c = config.evaluate.few_shot
    labels, names = named_labels(photos, dict(c.class_names))
    first_held_out = len(photos.train.labels)
    known = np.flatnonzero(labels >= 0)
    return draw_episodes(
        labels,
        names,
        ways,
        shots,
        c.episodes,
        config.seed,
        query_indices=known[known >= first_held_out],
        shot_indices=known[known < first_held_out],
    )


def named_labels(
    photos: loading.Photos, given: Mapping[str, str]
) -> tuple[Int[np.ndarray, " photos"], list[str]]:
    """The label of each photo, training ones first, and what the language model shall call each
    class.

    Of two classes with one name ("crane", twice in ImageNet) only the first is kept; photos of the
    other are unlabelled.
    """
    ids = photos.held_out.class_names
    names = class_names(ids, given)
    kept: dict[str, int] = {}
    new_label = []
    for i in ids:
        new_label.append(-1 if names[i] in kept else len(kept))
        kept.setdefault(names[i], len(kept))
    labels = np.concatenate([photos.train.labels, photos.held_out.labels])
    return np.asarray([*new_label, -1])[labels], list(kept)


def read_files(config: ConfigDict) -> dict[tuple[int, int], EpisodeFile]:
    """The first `episodes` episodes of each published file, by ways and shots, with class names,
    over the same photos.
    """
    c = config.evaluate.few_shot
    keys = list(itertools.product(c.ways, c.shots))
    files = [
        read_episode_csv(
            loading.locate(c.episode_file.format(ways=w, shots=k)), loading.locate(c.episode_photos)
        )
        for w, k in keys
    ]
    ids = {name for file in files for episode in file.episodes for name in episode.class_names}
    names = class_names(sorted(ids), dict(c.class_names))
    joined = join_episode_files([rename_classes(file, names) for file in files], c.episodes)
    return dict(zip(keys, joined, strict=True))


def class_names(ids: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The name of each class: what `given` says, else for a WordNet id its first word, else the
    class's own name.
    """
    wordnet: dict[str, str] = {}
    if any(_WORDNET_ID.fullmatch(i) and i not in given for i in ids):
        wordnet = read_class_names(loading.locate("imagenet-lemmas"))
    return {i: given.get(i, wordnet.get(i, i)) for i in ids}


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Table 1, where more was measured than the page's own accuracy tables show."""
    del run
    tables = table_1(as_rows(results))
    if not tables:
        return None
    lead = (
        "The layout of Table 1 of the paper. Each trial shows one or more photos of each class as words, some of them several times, "
        "with or without a first sentence that lists the classes. Under the greedy rule an answer is right if it begins with the "
        "class name, as published; likelihood takes the likeliest class name. Below each of our numbers is its 95 % interval."
    )
    return TaskSection("few_shot", "Table 1", lead, tables)
