"""Zero-shot classification: which of the classes does an image show? No examples are given."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.errors import DataError
from v2l_jax.metrics.results import Result, Scalar, proportion
from v2l_jax.options import CONTROLS, FLAG, NAME, POSITIVE, entries, option
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint
from v2l_jax.representations.base import ImageSet, Segments, Text
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import loop
from v2l_jax.tasks.harness.answers import LikeliestName
from v2l_jax.tasks.harness.classes import named_labels, names_of
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.prompts import Prompt, input_part, task_induction

POSITION = 25
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of zero-shot classification."""

    images: int = option(200, "held-out images asked about, drawn by the seed", POSITIVE)
    tokens: int = option(5, "words an image", POSITIVE)
    calibrate: bool = option(
        True, "subtract each name's log-likelihood after a query without content", FLAG
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    class_names: dict[str, str] = option(
        {}, "what to call a class; WordNet ids have names already", entries(NAME)
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row with the images' own segments, and one for each control."""
    c = config.evaluate.zero_shot
    fixed = {"tokens": c.tokens, "calibrate": c.calibrate, **fingerprint(config)}
    return [{"control": control, **fixed} for control in ("none", *c.controls)]


def check(config: ConfigDict) -> None:
    """Raises DataError for prompts that cannot fit and, where labels are known before images are
    read, for fewer than two classes or images of none.
    """
    photos = loading.photos(config)
    if photos.labels_at_hand:
        chosen(config, photos)
    names = names_of(photos, dict(config.evaluate.zero_shot.class_names))
    image = least_written(config, config.evaluate.zero_shot.tokens)
    check_prompts_fit(config, "zero-shot", [prompt(image, names)])


def chosen(
    config: ConfigDict, photos: loading.Photos
) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"], tuple[str, ...]]:
    """The images asked about, counted from the first training image, their labels, and the names
    of all classes.
    """
    labels, names = named_labels(photos, dict(config.evaluate.zero_shot.class_names))
    own = np.flatnonzero(labels >= 0)
    own = np.random.default_rng(config.seed).permutation(own[own >= len(photos.train)])
    if len(names) < 2 or not len(own):
        raise DataError(
            f"zero-shot classification needs held-out images of two classes, but there are "
            f"{len(own)} images and {len(names)} classes"
        )
    indices = own[: config.evaluate.zero_shot.images]
    return indices, labels[indices], tuple(names)


def prompt(image: Segments, names: Sequence[str]) -> Prompt:
    """The classes, then what is written of the image; it ends where the answer begins."""
    return (task_induction(names), *input_part(image))


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy under each control, with Wilson's interval."""
    indices, labels, names = chosen(run.config, run.photos)
    write, true = loop.Writer(run, ImageSet.own(run)), [names[label] for label in labels]

    def questions(setting: dict[str, Scalar]) -> loop.Questions:
        written = write(str(setting["control"]), int(setting["tokens"]))
        prompts = [prompt(written[int(i)], names) for i in indices]
        blanks = [[prompt((Text("word"),), names)] * len(prompts)] * bool(setting["calibrate"])
        how = LikeliestName([names] * len(prompts), content_free=blanks)

        def score(answers: list[str]) -> list[Result]:
            right = sum(answer == name for answer, name in zip(answers, true, strict=True))
            return [proportion("zero_shot_accuracy", right, len(true), classes=len(names))]

        return loop.Questions(f"zero-shot, {setting['control']}", prompts, how, score)

    loop.measure(run, "zero_shot", missing, questions)


TABLE = TableSpec(
    caption=(
        "{dataset}: accuracy in percent over {classes} classes, 95 % intervals; {count} images; "
        "{representation}, {tokens} words an image; {llm}, {tower}"
    ),
    rows=("calibrate", "control"),
    tables=("dataset", "llm", "tower", "tokens", "classes", "representation"),
    labels={
        "calibrate": {True: "Calibrated likelihood", False: "Likelihood"},
        "control": {
            "none": "the image's words",
            "no_tokens": "control: no words",
            "shuffled": "control: another image's words",
        },
    },
    single="Accuracy",
    numbers={"zero_shot_accuracy": Number(1, scale=100.0)},
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each data set and representation, with controls."""
    del run
    lead = (
        "The language model is told the classes and an image's words, without examples, and the "
        "likeliest class name is its answer. What stands above the controls was read off the words."
    )
    return TaskSection("zero_shot", "Naming without examples", lead, render(results, TABLE))
