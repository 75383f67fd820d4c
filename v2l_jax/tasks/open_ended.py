"""Open-ended few-shot naming (Tsimpoukelli et al. 2021, Frozen): the language model is shown images
with words for them, perhaps made-up ones, and must write the word for another image.

No list of answers is given. An answer counts only if it is the word and then the end: "dax", not
"daxes" and not "dax and".
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.data.episodes import Episode, EpisodePhotos, draw_episodes
from v2l_jax.data.open_ended import OpenQuestion, OpenQuestions, read_open_ended
from v2l_jax.metrics.results import Result, Scalar, proportion
from v2l_jax.options import (
    CONTROLS,
    COUNT,
    NAME,
    POSITIVE,
    TEMPLATE,
    TEXT,
    each,
    number,
    one_of,
    option,
)
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint
from v2l_jax.representations.base import ImageSet, Segments, Text
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import loop
from v2l_jax.tasks.harness.answers import WrittenLine
from v2l_jax.tasks.harness.classes import named_labels
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.prompts import Prompt

POSITION = 27
"""Where its section stands on the page."""

NONSENSE = ("dax", "blicket", "slation", "perpo", "shously")
"""Words that no language model knows; the first are the paper's."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of open-ended naming."""

    ways: tuple[int, ...] = option(
        (2,), "classes a question, at most five", each(number(2, 5, integer=True), least=1),
        in_row=True,
    )  # fmt: skip
    shots: tuple[int, ...] = option(
        (1, 3, 5), "examples a class", each(POSITIVE, least=1), in_row=True
    )
    names: tuple[str, ...] = option(
        ("nonsense", "real"),
        "'nonsense' words for the classes, or their 'real' names",
        each(one_of("nonsense", "real"), least=1),
        in_row=True,
    )
    repetitions: int = option(0, "how often the examples are shown again", COUNT)
    tokens: int = option(5, "words an image, where the representation counts them", POSITIVE)
    sentence: str = option("This is a {}.", "what is said of an example", TEMPLATE)
    question: str = option("This is a", "what the answer must continue", NAME)
    ends: str = option(
        "sentence",
        "what must follow the name: 'sentence', the full stop or the end of the line, as in the "
        "examples; 'token', the language model's end token, as published",
        one_of("sentence", "token"),
    )
    questions: int = option(200, "a row", POSITIVE)
    file: str = option(
        "",
        "published questions instead of drawn ones, such as "
        "'open_ended_mi/open_ended_mi_shots_{shots}_ways_{ways}_all_questions.json'; names are "
        "the file's own",
        TEXT,
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no image, and another image", CONTROLS, in_row=True
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row for each number of ways and shots, kind of names and control."""
    c = config.evaluate.open_ended
    fixed = {"tokens": c.tokens, "ends": c.ends, "repetitions": c.repetitions}
    fixed |= fingerprint(config)
    kinds = ("file",) if c.file else tuple(c.names)
    return [
        {"ways": ways, "shots": shots, "names": names, "control": control, **fixed}
        for names in kinds
        for ways in c.ways
        for shots in c.shots
        for control in ("none", *c.controls)
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError where questions cannot be read or drawn, images of a file are missing, or
    prompts cannot fit the language model; questions are drawn where labels are known before images
    are read.
    """
    c = config.evaluate.open_ended
    photos = None if c.file else loading.photos(config)
    if photos is not None and not photos.labels_at_hand:
        return
    image = least_written(config, c.tokens)
    for ways in c.ways:
        for shots in c.shots:
            made = _questions(config, photos, ways, shots, "real")
            if c.file:
                _photos(made)
            shown = {i for q in made.questions for i in (*(i for i, _ in q.shown), q.image)}
            written = dict.fromkeys(shown, image)
            prompts = [prompt(question, written, c.repetitions) for question in made.questions]
            check_prompts_fit(config, f"open-ended, {ways}-way {shots}-shot", prompts)


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Share of answers that are the word and then the end, with Wilson's interval."""
    writers: dict[tuple[str, ...], loop.Writer] = {}

    def asked(setting: dict[str, Scalar]) -> loop.Questions:
        ways, shots, names = (setting[key] for key in ("ways", "shots", "names"))
        photos = None if run.config.evaluate.open_ended.file else run.photos
        made = _questions(run.config, photos, int(ways), int(shots), str(names))
        if made.paths not in writers:
            own = not run.config.evaluate.open_ended.file
            images = ImageSet.own(run) if own else ImageSet(("open_ended", _photos(made)))
            writers[made.paths] = loop.Writer(run, images)
        written = writers[made.paths](str(setting["control"]), int(setting["tokens"]))
        c = run.config.evaluate.open_ended
        prompts = [prompt(question, written, c.repetitions) for question in made.questions]
        how = WrittenLine(16, stop_strings=(".", "\n") if c.ends == "sentence" else (), ends=True)

        def score(answers: list[str]) -> list[Result]:
            right = sum(
                is_hit(answer, question.answer)
                for answer, question in zip(answers, made.questions, strict=True)
            )
            return [proportion("open_ended_accuracy", right, len(answers))]

        label = f"{ways}-way {shots}-shot, {names} names, {setting['control']}"
        return loop.Questions(label, prompts, how, score)

    loop.measure(run, "open_ended", missing, asked)


def prompt(
    question: OpenQuestion,
    written: Sequence[Segments] | Mapping[int, Segments],
    repetitions: int = 0,
) -> Prompt:
    """Images with their sentences, a line each, then the image asked about and the question."""
    parts: list[Segments] = []
    for image, sentence in question.shown * (repetitions + 1):
        parts.append((*written[image], Text(f" {sentence}\n")))
    asked = f" {question.question}" if question.question else ""
    parts.append((*written[question.image], Text(asked)))
    return tuple(segment for part in parts for segment in part)


def is_hit(answer: str, expected: str) -> bool:
    """Whether an answer, as written up to its end, is the expected word, whatever its case."""
    return answer.strip().casefold() == expected.strip().casefold()


def _questions(
    config: ConfigDict, photos: loading.Photos | None, ways: int, shots: int, names: str
) -> OpenQuestions:
    """Those of the file, or drawn from the photos."""
    c = config.evaluate.open_ended
    if photos is None:
        file = loading.locate(c.file.format(ways=ways, shots=shots))
        read = read_open_ended(file, shown=ways * shots)
        return dataclasses.replace(read, questions=read.questions[: c.questions])
    labels, classes = named_labels(photos, {})
    known, first = np.flatnonzero(labels >= 0), len(photos.train)
    episodes = draw_episodes(
        labels,
        classes,
        ways,
        shots,
        c.questions,
        config.seed,
        known[known >= first],
        known[known < first],
    )
    rng, made = np.random.default_rng((config.seed, ways, shots)), []
    for episode in episodes:
        drawn = [NONSENSE[i] for i in rng.permutation(ways)]
        made.append(_from_episode(episode, c, drawn if names == "nonsense" else None))
    return OpenQuestions(tuple(made), ())


def _from_episode(episode: Episode, c: ConfigDict, drawn: Sequence[str] | None) -> OpenQuestion:
    """The episode as sentences, with drawn words for its classes or their own names."""
    words = dict(zip(episode.class_names, drawn or episode.class_names, strict=True))
    shown = tuple((s.index, c.sentence.format(words[s.class_name])) for s in episode.shots)
    return OpenQuestion(shown, episode.query.index, c.question, words[episode.query.class_name])


def _photos(made: OpenQuestions) -> EpisodePhotos:
    return EpisodePhotos(made.paths)


TABLE = TableSpec(
    caption=(
        "{dataset}: share of answers that are the word and then the end, in percent, 95 % "
        "intervals; {count} questions; {representation}; {llm}"
    ),
    rows=("names", "control"),
    columns=("ways", "shots"),
    tables=("dataset", "llm", "representation", "ends"),
    labels={
        "names": {"nonsense": "Made-up names", "real": "Real names", "file": "Names of the file"},
        "control": {
            "none": "the image",
            "no_tokens": "control: no image",
            "shuffled": "control: another image",
        },
        ("ways", "shots"): {
            (ways, shots): f"{ways}-way {shots}-shot"
            for ways in range(2, 6)
            for shots in (*range(1, 6), 10)
        },
    },
    numbers={"open_ended_accuracy": Number(1, scale=100.0)},
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each representation, with controls."""
    del run
    lead = (
        "The language model sees images with a word for each, and writes the word for another "
        "image, with no list to choose from. An answer counts only if it is the word and then the "
        "end. Frozen (7 B) had 53.4 % two-way and 20.2 % five-way with one shot on "
        "Open-Ended Mini-ImageNet."
    )
    return TaskSection("open_ended", "Naming with made-up words", lead, render(results, TABLE))
