"""Few-shot classification: the language model names a photo after a few examples, all of them words (Zhu et al. 2024, Table 1)."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.data.episodes import Episode, draw_episodes
from v2l_jax.errors import ConfigError
from v2l_jax.incontext.classification import Scoring, classify, hits, make_prompts, shuffle_words
from v2l_jax.jobs import loading
from v2l_jax.jobs.rules import COUNT, FLAG, POSITIVE, Rule, each, number, one_of
from v2l_jax.jobs.run import Run
from v2l_jax.jobs.workdir import write_json
from v2l_jax.metrics.results import Result, Scalar, proportion
from v2l_jax.report.data import TaskSection

RULES: dict[str, Rule] = {
    "ways": each(number(2, integer=True)),
    "shots": each(POSITIVE),
    "episodes": POSITIVE,
    "tokens": POSITIVE,
    "repetitions": COUNT,
    "induction": FLAG,
    "rule": one_of("likelihood", "greedy"),
    "calibrate": FLAG,
    "control_shots": each(POSITIVE),
}


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row for each number of ways and shots, and for the control with shuffled words."""
    c = config.evaluate.few_shot
    cells = [(ways, shots, "none") for ways in c.ways for shots in c.shots]
    cells += [(ways, shots, "shuffled") for ways in c.ways for shots in c.control_shots]
    fixed = {key: c[key] for key in ("tokens", "repetitions", "induction", "rule", "calibrate")}
    return [{"ways": ways, "shots": shots, "control": control, **fixed} for ways, shots, control in cells]


def check(config: ConfigDict) -> None:
    """Raises ConfigError for options that clash, DataError if a class has too few photos for the episodes asked."""
    c = config.evaluate.few_shot
    if c.calibrate and c.rule == "greedy":
        raise ConfigError("config.evaluate.few_shot.calibrate needs rule='likelihood'; set calibrate=False for greedy")
    photos = loading.photos(config)
    for ways in c.ways:
        for shots in c.shots:
            make_episodes(config, photos, ways, shots)


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of every missing cell, with Wilson's interval."""
    c = run.config.evaluate.few_shot
    words = run.words("train", c.tokens) + run.words("held_out", c.tokens)
    rule = Scoring(rule=c.rule, calibrate=c.calibrate, induction=c.induction, repetitions=c.repetitions)
    for setting in missing:
        ways, shots, control = (setting[key] for key in ("ways", "shots", "control"))
        episodes = make_episodes(run.config, run.photos, ways, shots)
        shown = shuffle_words(words, run.config.seed) if control == "shuffled" else words
        label = f"{ways}-way {shots}-shot" + (", shuffled words" if control == "shuffled" else "")
        chosen = classify(run.decoder, run.llm.tokenizer, episodes, shown, rule, label)
        right = hits(chosen, episodes)
        run.record("few_shot", setting, [proportion("few_shot_accuracy", int(right.sum()), len(episodes))])
        path = run.folder("few_shot") / "example.json"
        if control == "none" and not path.exists():
            prompt, answer = str(make_prompts(episodes[:1], words, rule)[0]), episodes[0].class_names[chosen[0]]
            write_json(path, {"prompt": prompt, "answer": answer, "expected": episodes[0].query.class_name})


def make_episodes(config: ConfigDict, photos: loading.Photos, ways: int, shots: int) -> tuple[Episode, ...]:
    """Episodes whose shots are training photos and whose queries are held-out ones; training photos are numbered first."""
    labels = np.concatenate([photos.train.labels, photos.held_out.labels])
    first_held_out = len(photos.train.labels)
    known = np.flatnonzero(labels >= 0)
    return draw_episodes(
        labels,
        photos.held_out.class_names,
        ways,
        shots,
        config.evaluate.few_shot.episodes,
        config.seed,
        query_indices=known[known >= first_held_out],
        shot_indices=known[known < first_held_out],
    )


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """None: the page has places of its own for the accuracies and the example."""
    del run, results
    return None
