"""Few-shot classification: the language model names an image after a few examples (Zhu et al. 2024,
Table 1).
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool
from ml_collections import ConfigDict

from v2l_jax.data.episodes import (
    Episode,
    EpisodeFile,
    EpisodePhotos,
    draw_episodes,
    join_episode_files,
    read_episode_csv,
    rename_classes,
)
from v2l_jax.errors import ConfigError
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.metrics.results import Result, Scalar, proportion, read_results
from v2l_jax.options import (
    CONTROLS,
    COUNT,
    FLAG,
    NAME,
    POSITIVE,
    TEXT,
    each,
    entries,
    number,
    one_of,
    one_or_more,
    option,
)
from v2l_jax.report.accuracy import control_label, control_of, is_few_shot, is_plain
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.tables import (
    Number,
    Published,
    TableSpec,
    render,
    setting_of,
    table_text,
    with_fields,
)
from v2l_jax.representations import fingerprint, representation
from v2l_jax.representations.base import ImageSet, Segments, Text
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import write_json
from v2l_jax.tasks.harness import loop, published_prompts
from v2l_jax.tasks.harness.answers import (
    Answering,
    LikeliestName,
    MaskedNames,
    SpelledNames,
    WrittenLine,
)
from v2l_jax.tasks.harness.classes import class_names, named_labels, names_of, nearest_last
from v2l_jax.tasks.harness.examples import prompt_example
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.prompts import Prompt, example_part, input_part, task_induction

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
        "published episodes instead of drawn ones, such as "
        "'fewshot_split/{ways}_way_{shots}_shot.csv'",
        TEXT,
    )
    episode_photos: str = option("", "the folder that their lines start from", TEXT)
    class_names: dict[str, str] = option(
        {}, "what to call a class; WordNet ids have names already", entries(NAME)
    )


class Prompting(NamedTuple):
    """How examples are shown: shots of each class, how often the list is repeated, whether the task
    is stated first.
    """

    shots: int
    repetitions: int
    induction: bool


TABLE_1 = {
    Prompting(1, 0, False): "1 shot, no induction",
    Prompting(1, 0, True): "1 shot",
    Prompting(3, 0, True): "3 shots",
    Prompting(5, 0, True): "5 shots",
    Prompting(1, 1, True): "repeated 1×",
    Prompting(1, 3, True): "repeated 3×",
    Prompting(1, 5, True): "repeated 5×",
}
"""The columns of the paper's Table 1 at each number of ways; its last column is their mean."""


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row for each way to ask, and for each control at the shots that `control_shots` names."""
    c = config.evaluate.few_shot
    rows = []
    for tokens, rule in itertools.product(_several(c.tokens), _several(c.rule)):
        fixed = {
            "tokens": tokens,
            "rule": rule,
            "calibrate": c.calibrate and rule == "likelihood",
            "ordering": c.ordering,
            "episodes": f"{c.episodes} by seed {config.seed}",
            **fingerprint(config),
        }
        if config.published:
            fixed["prompts"] = "published code"
        if c.episode_file:
            file, photos = (
                pathlib.PurePath(path).name for path in (c.episode_file, c.episode_photos)
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


def _several(value: Scalar | Sequence[Scalar]) -> tuple[Scalar, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def check(config: ConfigDict) -> None:
    """Raises ConfigError for options that clash, DataError for too few images, missing files or
    classes without a name.
    """
    c = config.evaluate.few_shot
    if not promptings(c):
        raise ConfigError(
            "config.evaluate.few_shot.table_1 is True, but no shots, repetitions and induction "
            "asked for are in Table 1"
        )
    shots = {*c.shots, *(c.control_shots if c.controls else ())}
    if c.episode_file:
        files = read_files(config)
        if wanted := {(ways, k) for ways in c.ways for k in shots} - files.keys():
            raise ConfigError(
                f"config.evaluate.few_shot.control_shots asks for {sorted(wanted)} (ways, shots), "
                "which shots lacks"
            )
        EpisodePhotos(next(iter(files.values())).paths)
        _check_fits(config, {key: _longest_names(file.episodes) for key, file in files.items()})
        return
    photos = loading.photos(config)
    cells = list(itertools.product(c.ways, sorted(shots)))
    if photos.labels_at_hand:
        made = {cell: make_episodes(config, photos, *cell) for cell in cells}
        _check_fits(config, {cell: _longest_names(episodes) for cell, episodes in made.items()})
        return
    shortest = sorted(names_of(photos, dict(c.class_names)), key=len)
    _check_fits(config, {(ways, k): tuple(shortest[:ways]) for ways, k in cells})


def _longest_names(episodes: Iterable[Episode]) -> tuple[str, ...]:
    """The class names of the episode that has the most to write."""
    return max((e.class_names for e in episodes), key=lambda names: sum(map(len, names)))


def _check_fits(config: ConfigDict, names: dict[tuple[int, int], tuple[str, ...]]) -> None:
    """Raises DataError for settings with a prompt that does not fit the language model; `names` are
    an episode's classes by ways and shots.
    """
    for setting in settings(config):
        if setting["control"] != "none":
            continue
        some = names[int(setting["ways"]), int(setting["shots"])]
        image = least_written(config, int(setting["tokens"]))
        shots = [(image, name) for name in some for _ in range(int(setting["shots"]))]
        how = (bool(setting["induction"]), int(setting["repetitions"]))
        check_prompts_fit(config, label(setting), [few_shot_prompt(shots, image, some, *how).whole])


def make_episodes(
    config: ConfigDict, photos: loading.Photos, ways: int, shots: int
) -> tuple[Episode, ...]:
    """Episodes whose shots are training images and whose queries are held-out ones; training images
    are numbered first.
    """
    c = config.evaluate.few_shot
    labels, names = named_labels(photos, dict(c.class_names))
    names = _as_published(config, names)
    first_held_out = len(photos.train)
    known = np.flatnonzero(labels >= 0)
    queries, examples = known[known >= first_held_out], known[known < first_held_out]
    return draw_episodes(labels, names, ways, shots, c.episodes, config.seed, queries, examples)


def read_files(config: ConfigDict) -> dict[tuple[int, int], EpisodeFile]:
    """The first `episodes` episodes of each published file, by ways and shots, with class names,
    over the same images.
    """
    c = config.evaluate.few_shot
    keys = list(itertools.product(c.ways, c.shots))
    root = loading.locate(c.episode_photos)
    files = [
        read_episode_csv(loading.locate(c.episode_file.format(ways=w, shots=k)), root, w, k)
        for w, k in keys
    ]
    ids = {name for file in files for episode in file.episodes for name in episode.class_names}
    names = class_names(sorted(ids), dict(c.class_names))
    names = dict(zip(names, _as_published(config, list(names.values())), strict=True))
    joined = join_episode_files([rename_classes(file, names) for file in files], c.episodes)
    return dict(zip(keys, joined, strict=True))


def _as_published(config: ConfigDict, names: list[str]) -> list[str]:
    """Class names, with underscores where the published code has them."""
    return [published_prompts.underscored(name) for name in names] if config.published else names


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of every missing row, with Wilson's interval; that all prompts fit the model is
    checked first.
    """
    loop.measure(run, "few_shot", missing, Asking(run).questions)
    for table in table_1(read_results(run.workdir / "results.json")):
        logging.info("%s", table_text(table))


class Asking:
    """What the settings of a run ask: episodes and written images, each made once."""

    def __init__(self, run: Run):
        self.run = run
        files = read_files(run.config) if run.config.evaluate.few_shot.episode_file else {}
        self._episodes = {key: tuple(file.episodes) for key, file in files.items()}
        self.images = (
            ImageSet(("few_shot", EpisodePhotos(next(iter(files.values())).paths)))
            if files
            else ImageSet.own(run)
        )
        self.write = loop.Writer(run, self.images)

    def episodes(self, ways: int, shots: int) -> Sequence[Episode]:
        """Episodes in the order they are read or drawn."""
        if (ways, shots) not in self._episodes:
            self._episodes[ways, shots] = make_episodes(
                self.run.config, self.run.photos, ways, shots
            )
        return self._episodes[ways, shots]

    def questions(self, setting: dict[str, Scalar]) -> loop.Questions:
        """The prompts of a setting. Under a control, the order of shots tells as little of an image
        as what is written of it.
        """
        episodes = self.episodes(setting["ways"], setting["shots"])
        if setting["ordering"] == "nearest_last":
            content = representation(self.run.config, setting["control"]).content(self.images)
            if content is not None:
                episodes = nearest_last(episodes, self.images.image_embeddings(self.run)[content])
        scoring = Scoring(
            *(setting[key] for key in ("rule", "calibrate", "induction", "repetitions")),
            published=self.run.config.published,
        )
        written = self.write(setting["control"], setting["tokens"])
        published = self.run.config.published
        tokenizer = self.run.llm.tokenizer if published else None
        prompts = make_prompts(episodes, written, scoring, tokenizer)

        def score(answers: list[str]) -> list[Result]:
            right = hits(answers, episodes, scoring)
            if setting["control"] == "none":
                self._keep_example(prompts[0], answers[0], episodes[0])
            return [proportion("few_shot_accuracy", int(right.sum()), len(episodes))]

        whole = [prompt.whole for prompt in prompts]
        return loop.Questions(label(setting), whole, answering(episodes, prompts, scoring), score)

    def _keep_example(self, prompt: "FewShotPrompt", answer: str, episode: Episode) -> None:
        path, expected = self.run.folder("few_shot") / "example.json", episode.query.class_name
        if not path.exists():
            written = answer.removeprefix(" ")
            write_json(path, prompt_example(self.run, prompt.whole, written, expected))


def label(setting: dict[str, Scalar]) -> str:
    """A setting in words, for progress and errors."""
    parts = [f"{setting['ways']}-way {setting['shots']}-shot"]
    parts += [f"repeated {setting['repetitions']}×"] * bool(setting["repetitions"])
    parts += ["no induction"] * (not setting["induction"])
    parts += [f"{setting['tokens']} tokens", str(setting["rule"])]
    parts += [str(setting["control"]).replace("_", " ")] * (setting["control"] != "none")
    return ", ".join(parts)


CONTENT_FREE = ("word",)
"""Queries without content, whose answers show the prior of a prompt's classes (Zhao et al. 2021,
section 4.2).

Zhao et al. take "N/A", "[MASK]" and the empty string; a neutral word is nearer to what images look
like in these prompts.
"""

FREE_TOKENS = 16  # of an answer without a mask, as published


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How an episode is asked and its answer read.

    Attributes:
      rule: "greedy" is the published rule: the answer is what greedy decoding writes, and it is
        right if it starts with the class name; with induction, step i may only write the i-th token
        of a class name. "constrained" is greedy decoding that can only spell a whole class name.
        "likelihood" takes the class name of the highest log-likelihood.
      calibrate: subtract each class's mean log-likelihood after content-free queries (contextual
        calibration, Zhao et al. 2021); needs the "likelihood" rule. The published way is False.
      induction: state the task first.
      repetitions: show the examples this many times more.
      published: the names are encoded alone in the mask, as the published code has it; "greedy"
        only.
    """

    rule: Literal["greedy", "constrained", "likelihood"] = "likelihood"
    calibrate: bool = True
    induction: bool = True
    repetitions: int = 0
    published: bool = False


class FewShotPrompt(NamedTuple):
    """A prompt in two parts: task induction and examples, which are the same for every query that
    is asked after them, and the image to be named.
    """

    shots: Prompt
    query: Prompt

    @property
    def whole(self) -> Prompt:
        """Both."""
        return self.shots + self.query


def few_shot_prompt(
    shots: Sequence[tuple[Segments, str]],
    query: Segments,
    names: Sequence[str],
    induction: bool = True,
    repetitions: int = 0,
) -> FewShotPrompt:
    """N-way K-shot classification (Zhu et al. 2024, section 3.4).

    Args:
      shots: what is written of each example, and its class name, in the order shown.
      query: what is written of the image to be named.
      names: the N answers.
      induction: whether the task is stated first.
      repetitions: how often the whole list of examples is shown again.
    """
    examples = tuple(part for image, name in shots for part in example_part(image, name))
    stated = (task_induction(names),) if induction else ()
    return FewShotPrompt(stated + examples * (repetitions + 1), input_part(query))


def make_prompts(
    episodes: Sequence[Episode],
    written: Sequence[Segments],
    scoring: Scoring,
    tokenizer: TextTokenizer | None = None,
) -> list[FewShotPrompt]:
    """The prompt of each episode; `written[i]` stands for image `i`, which episodes index.

    With a tokenizer, prompts are put together of pieces as the published code does.
    """
    make = few_shot_prompt
    if tokenizer is not None:
        make = lambda *parts: FewShotPrompt(*published_prompts.pieces(tokenizer, *parts))
    return [
        make(
            [(written[shot.index], shot.class_name) for shot in episode.shots],
            written[episode.query.index],
            episode.class_names,
            scoring.induction,
            scoring.repetitions,
        )
        for episode in episodes
    ]


def answering(
    episodes: Sequence[Episode], prompts: Sequence[FewShotPrompt], scoring: Scoring
) -> Answering:
    """How episodes are answered."""
    names = [episode.class_names for episode in episodes]
    if scoring.rule == "greedy":
        # The published loop writes on after the line, which changes no answer's beginning.
        mask = published_prompts.name_steps if scoring.published else None
        free = WrittenLine(FREE_TOKENS, ends=False)
        return MaskedNames(names, mask) if scoring.induction else free
    if scoring.rule == "constrained":
        return SpelledNames(names)
    blanks = [input_part((Text(blank),)) for blank in CONTENT_FREE if scoring.calibrate]
    return LikeliestName(
        names, content_free=[[p.shots + blank for p in prompts] for blank in blanks]
    )


def hits(
    answers: Sequence[str], episodes: Sequence[Episode], scoring: Scoring = Scoring()
) -> Bool[np.ndarray, " episodes"]:
    """Which answers name the query's class; a written answer need only start with the name after
    its space, as published.
    """
    pairs = [
        (answer.removeprefix(" "), episode.query.class_name)
        for answer, episode in zip(answers, episodes, strict=True)
    ]
    if scoring.rule == "greedy":
        return np.asarray([answer.startswith(name) for answer, name in pairs], bool)
    return np.asarray([answer == name for answer, name in pairs], bool)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Table 1, where more was measured than the page's own accuracy tables show."""
    del run
    tables = table_1(results)
    if not tables:
        return None
    lead = (
        "The layout of Table 1 of the paper. Each trial shows one or more photos of each class as "
        "words, some of them several times, with or without a first sentence that lists the "
        "classes. Under the greedy rule an answer is right if it begins with the class name, as "
        "published; likelihood takes the likeliest class name. Below each of our numbers is its "
        "95 % interval."
    )
    return TaskSection("few_shot", "Table 1", lead, tables)


def table_1(results: Sequence[Result]) -> list[Table]:
    """The paper's Table 1, one table for each number of ways: our rows, with controls, then the
    published ones; nothing where no setting of ours has a column that the plain tables lack.
    """
    ours = [result for result in results if is_few_shot(result)]
    if all(is_plain(result) for result in ours):
        return []
    placed = [with_fields(result, **_place(result, ours)) for result in ours]
    placed = [result for result in placed if result.measured_on["column"]]
    rows: dict[tuple, list[Result]] = {}
    for result in placed:
        key = (result.measured_on["ways"], result.measured_on["variant"])
        rows.setdefault(key, []).append(result)
    return render(placed + [mean for members in rows.values() for mean in _mean(members)], TABLE)


def _place(result: Result, ours: Sequence[Result]) -> dict[str, Scalar]:
    """The fields that say where a result stands in Table 1."""
    row, setting = result.measured_on, setting_of(result, {"ways", "shots", "control"})
    prompting = Prompting(
        row["shots"], setting.pop("repetitions", 0), setting.pop("induction", True)
    )
    control = control_of(result)
    same = [other for other in ours if other.measured_on["ways"] == row["ways"]]
    datasets = sorted({str(r.measured_on["dataset"]) for r in same if "dataset" in r.measured_on})
    scoring = f"{setting.get('rule', '')}{', calibrated' if setting.get('calibrate') else ''}"
    details = [
        setting.get("llm", ""),
        scoring,
        setting.get("representation", ""),
        "prompts of the published code" if "prompts" in setting else "",
        setting.get("dataset", "") if len(datasets) > 1 else "",
    ]
    name = f"Ours, {setting.get('tokens', '?')} tokens"
    name += f", {control_label(control).lower()}" if control else ""
    return {
        "column": TABLE_1.get(prompting, ""),
        "variant": json.dumps([setting, control], sort_keys=True),
        "row": f"{name}\n{'; '.join(filter(None, details))}",
        "chance": f"{100 / int(row['ways']):.3g}",
        "datasets": ", ".join(datasets) or "photos of one set",
    }


def _mean(row: Sequence[Result]) -> list[Result]:
    """The last column, where all others are there."""
    cells = {str(result.measured_on["column"]): result.value for result in row}
    found = [cells.get(column, math.nan) for column in TABLE_1.values()]
    if not all(map(math.isfinite, found)):
        return []
    mean = dataclasses.replace(row[0], value=sum(found) / len(found), ci95=None)
    return [with_fields(mean, column="mean")]


class PublishedRow(NamedTuple):
    """Published accuracies in percent on Mini-ImageNet by ways, in the order of Table 1's columns,
    then the mean.

    None is a number that is in no source at hand; it follows from the mean, to 0.4 points.
    """

    method: str
    llm: str
    accuracies: dict[int, tuple[float | None, ...]]

    def cells(self, ways: int) -> dict[str, float | str]:
        """By column; what follows from the mean is marked."""
        values, mean = self.accuracies[ways][:-1], self.accuracies[ways][-1] or math.nan
        known = [value for value in values if value is not None]
        rest = f"≈{len(values) * mean - sum(known):.1f}"
        found: dict[str, float | str] = {
            column: rest if value is None else value
            for column, value in zip(TABLE_1.values(), values, strict=True)
        }
        return found | {"mean": mean}


PUBLISHED = (
    PublishedRow("Frozen", "", {
        2: (1.7, 33.7, 66.0, 66.0, 63.0, 65.0, 63.7, 51.3),
        5: (0.9, 14.5, 34.7, 33.8, 33.8, 33.3, 32.8, 26.3),
    }),
    PublishedRow("LQAE, 256 tokens", "GPT-3.5", {
        2: (1.5, 35.2, 68.2, 69.8, 68.5, 68.7, 65.9, 54.0),
        5: (1.0, 15.7, 35.9, 36.5, 31.9, 36.4, 45.9, 29.0),
    }),
    PublishedRow("SPAE, 5 tokens", "PaLM-2 340B", {
        2: (32.2, 84.0, 88.5, 88.4, 85.1, 83.6, 82.4, 77.7),
        5: (23.6, 64.2, 68.0, 69.9, 63.4, 62.0, 60.2, 58.8),
    }),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 7B", {
        2: (None, 73.1, 89.0, 93.4, 79.6, 80.6, 79.1, 75.6),
        5: (None, 54.6, 88.6, 91.1, 70.7, 72.8, 74.4, 69.8),
    }),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 13B", {
        2: (None, 77.9, 91.9, 94.4, 81.5, 82.8, 82.0, 79.3),
        5: (None, 69.6, 89.9, 91.3, 75.8, 75.7, 77.2, 75.0),
    }),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 70B", {
        2: (None, 87.1, 94.8, 96.1, 88.9, 89.2, 89.1, 83.9),
        5: (None, 81.5, 92.3, 93.0, 85.7, 86.1, 86.3, 81.5),
    }),
    PublishedRow("SPAE, 21 tokens", "PaLM-2 340B", {
        2: (None, 84.8, 92.5, 92.6, 84.8, 85.2, 85.4, 79.0),
        5: (None, 65.1, 73.7, 74.3, 66.4, 67.0, 66.3, 61.9),
    }),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 7B", {
        2: (None, 76.3, 91.2, 95.3, 84.0, 84.4, 83.7, 78.8),
        5: (None, 44.8, 91.8, 94.0, 73.9, 82.2, 85.3, 72.7),
    }),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 13B", {
        2: (None, 73.1, 92.4, 95.7, 80.9, 83.8, 82.0, 79.5),
        5: (None, 62.7, 93.0, 94.5, 72.8, 79.6, 82.0, 75.2),
    }),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 70B", {
        2: (None, 89.1, 96.9, 97.8, 91.4, 92.7, 92.9, 86.7),
        5: (None, 79.7, 94.9, 95.6, 89.3, 90.7, 90.2, 83.5),
    }),
)  # fmt: skip
"""Table 1 of Zhu et al. 2024; its first column, and Frozen's fourth, by the tables of Frozen, LQAE
and SPAE that it repeats, whose means they give to the digit.
"""

TABLE = TableSpec(
    caption=(
        "{ways}-way accuracy in percent; guessing gets {chance}, or next to nothing without "
        "induction. Ours on {datasets}; published rows on Mini-ImageNet, with other language "
        "models: no comparison on equal terms."
    ),
    rows=("variant",),
    columns=("column",),
    tables=("ways", "chance", "datasets"),
    labels={"column": {name: name for name in (*TABLE_1.values(), "mean")}},
    row_label="{row}",
    corner="Words shown to",
    all_columns=True,
    numbers={"few_shot_accuracy": Number(1, scale=100.0, undefined="–")},
    published=[
        Published(
            f"{row.method}\n{row.llm or 'language model not named'}; published",
            row.cells(ways),
            {"ways": ways},
        )
        for row in PUBLISHED
        for ways in row.accuracies
    ],
)
