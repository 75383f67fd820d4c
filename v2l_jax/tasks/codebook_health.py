"""What keeps a codebook in use, and what the GAN's start does to it: an ablation of the remedies of
`config.train`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from absl import logging
from ml_collections import ConfigDict

from v2l_jax import experiment
from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import train
from v2l_jax.metrics.results import Result, Scalar, read_results
from v2l_jax.options import POSITIVE, Rule, option
from v2l_jax.report.curves import curves_from_rows
from v2l_jax.report.data import TaskSection
from v2l_jax.run import building
from v2l_jax.run.run import Run
from v2l_jax.tasks.codebook_health_plots import Bands, Groups, bands, health_figure
from v2l_jax.tasks.codebook_health_tables import (
    METRICS,
    codebook_health_section,
    codebook_health_tables,
)
from v2l_jax.training.metric_log import FILE_NAME, MetricLog, read_metrics

_TASK = "codebook_health"


def _is_variant(value: object) -> bool:
    """Whether `value` is (name, ((key, value), …))."""
    is_pair = lambda v: (
        isinstance(v, (tuple, list)) and len(v) == 2 and isinstance(v[0], str) and bool(v[0])
    )
    return is_pair(value) and isinstance(value[1], (tuple, list)) and all(map(is_pair, value[1]))


_VARIANTS = Rule(
    "a tuple of names, each with a tuple of keys of config.train and values, such as (('none', ()), ('late', (('disc_start', 9),)))",
    lambda v: isinstance(v, (tuple, list)) and bool(v) and all(map(_is_variant, v)),
)

POSITION = 100
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the study of codebook health."""

    starts: tuple = option(
        (("published start", ()),), "names, each with (key of config.train, value) pairs", _VARIANTS
    )
    remedies: tuple = option(
        (("none", ()),),
        "names, each with such pairs; the first is what others are compared with",
        _VARIANTS,
    )
    seeds: int = option(3, "seeds of each", POSITIVE)


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """One row set for each start, remedy and seed; all of a seed before the next."""
    c = config.evaluate.codebook_health
    return [
        {"start": start, "remedy": remedy, "seed": seed, "changes": _written(changes + others)}
        for seed in range(c.seeds)
        for start, changes in c.starts
        for remedy, others in c.remedies
    ]


def check(config: ConfigDict) -> None:
    """Raises ConfigError where a variant is no valid config.train, or several processes run the
    job.
    """
    if jax.process_count() > 1:
        raise ConfigError(f"the task {_TASK} runs on one host; start it without --distributed")
    for setting in settings(config):
        experiment.check(_variant(config, setting))


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Trains each variant from the start; records what its last evaluation says. Curves stay in the
    task's folder.
    """
    steps: dict[str, Callable] = {}  # seeds share a compiled step
    for number, setting in enumerate(missing):
        logging.info("%s: %d of %d", _TASK, number + 1, len(missing))
        found = _train(run, setting, steps)
        rows = [
            Result(metric, found[metric], 1, None, setting) for metric in METRICS if metric in found
        ]
        run.record(_TASK, setting, rows)
        with atomic_write(run.folder(_TASK) / "curves.png") as draft:
            health_figure(_curves(run), run.config.train.disc_start).savefig(
                draft, format="png", dpi=110
            )
    results = [
        result
        for result in read_results(run.workdir / "results.json")
        if result.measured_on.get("task") == _TASK
    ]
    for table in codebook_health_tables(results):
        rows = (" | ".join(row).replace("\n", " ") for row in (table.head, *table.rows))
        logging.info("%s\n%s", table.caption, "\n".join(rows))


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """The tables, and the curves around the GAN's start."""
    return codebook_health_section(results, _curves(run), run.config.train.disc_start)


def _train(run: Run, setting: dict[str, Scalar], steps: dict[str, Callable]) -> dict[str, float]:
    """The metrics after the last step."""
    config = _variant(run.config, setting)
    words = building.vectors({"local": run.local_words, "global": run.global_words})
    tokenizer = building.tokenizer(config, words)
    splits = train.images(config, run.workdir, tokenizer)
    trainer = building.trainer(config, tokenizer, len(splits["train"]), run.mesh)
    frozen = trainer.placed_frozen(building.frozen_inputs(tokenizer, words, run.lpips))
    if setting["changes"] not in steps:
        steps[setting["changes"]] = trainer.step_function()
    found: dict[str, float] = {}
    evaluate = train.evaluator(config, tokenizer, frozen, splits["held_out"], run.mesh)
    trainer.fit(
        trainer.placed_state(),
        trainer.loader(splits["train"]),
        frozen,
        evaluate=lambda state: found.update(evaluate(state)) or found,
        metric_log=MetricLog(run.folder(_TASK) / _name(setting), tensorboard=False),
        description=_name(setting),
        step=steps[setting["changes"]],
    )
    return found


def _variant(config: ConfigDict, setting: dict[str, Scalar]) -> ConfigDict:
    """The config that one row set trains."""
    c = config.evaluate.codebook_health
    config = config.copy_and_resolve_references()
    config.seed = int(setting["seed"])
    for key, value in (*dict(c.starts)[setting["start"]], *dict(c.remedies)[setting["remedy"]]):
        if key not in config.train:
            raise ConfigError(
                f"config.evaluate.{_TASK} changes train.{key}, which is no key of config.train"
            )
        config.train[key] = value
    return config


def _curves(run: Run) -> Groups:
    """By remedy and start, the curves of the seeds that are there."""
    c = run.config.evaluate.codebook_health
    groups: dict[str, dict[str, Bands]] = {}
    for remedy, _ in c.remedies:
        for start, _ in c.starts:
            names = [
                _name({"start": start, "remedy": remedy, "seed": seed}) for seed in range(c.seeds)
            ]
            paths = [
                path for name in names if (path := run.folder(_TASK) / name / FILE_NAME).exists()
            ]
            if paths:
                groups.setdefault(remedy, {})[start] = bands(
                    [curves_from_rows(read_metrics(path)) for path in paths]
                )
    return groups


def _name(setting: dict[str, Scalar]) -> str:
    return f"{setting['start']}, {setting['remedy']}, seed {setting['seed']}"


def _written(changes: Sequence[tuple[str, Scalar]]) -> str:
    return " ".join(f"{key}={value}" for key, value in changes)
