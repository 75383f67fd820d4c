"""Trainings that differ in some options: every combination of the variants, each with some
seeds.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from v2l_jax import experiment
from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import train
from v2l_jax.jobs.identity import missing, note
from v2l_jax.jobs.sweep_plots import Bands, Groups, bands, curves_figure
from v2l_jax.jobs.sweep_report import METRICS, steps_section, variants_section
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.options import POSITIVE, TEXT, Rule, option
from v2l_jax.report.curves import curves_from_rows
from v2l_jax.report.data import TaskSection
from v2l_jax.run import building
from v2l_jax.run.reconstruction import evaluator
from v2l_jax.run.run import Run
from v2l_jax.training.metric_log import FILE_NAME, MetricLog, read_metrics

_SECTION = "sweep"
_LOWER_IS_BETTER = ("lpips", "dead_words")


def _named(value: object, rule: Callable[[object], bool], kinds: tuple[type, ...]) -> bool:
    """Whether `value` is a tuple of pairs (name, what `rule` allows)."""
    return isinstance(value, (tuple, list)) and all(
        isinstance(v, (tuple, list))
        and len(v) == 2
        and isinstance(v[0], kinds)
        and v[0] != ""
        and rule(v[1])
        for v in value
    )


def _is_axis(variants: object) -> bool:
    changes = lambda v: _named(v, lambda _: True, (str,))
    return bool(variants) and _named(variants, changes, (str, int))


_AXES = Rule(
    "a tuple of axes, each a name and its variants, each a name and pairs of a key and a value, "
    "such "
    "as (('start', (('early', ()), ('late', (('train.disc_start', 9),)))),)",
    lambda v: _named(v, _is_axis, (str,)),
)
_TARGET = Rule(
    "() or a metric of the evaluation and a value, such as ('psnr', 20.0)",
    lambda v: (
        v == ()
        or (
            isinstance(v, (tuple, list))
            and len(v) == 2
            and v[0] in METRICS
            and isinstance(v[1], (int, float))
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a sweep."""

    title: str = option("Sweep", "heading on the page", TEXT, changes_results=False)
    axes: tuple = option(
        (),
        "what differs: axes, each with named variants, each with the (key of the config, value) "
        "pairs "
        "that it changes; others are compared with an axis's first variant",
        _AXES,
        in_row=True,
    )
    seeds: int = option(1, "seeds of each combination", POSITIVE, in_row=True)
    target: tuple = option(
        (),
        "a metric and the value at which training stops; then the steps to it are measured, else "
        "the "
        "metrics at the end of training",
        _TARGET,
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """One row set for each combination and seed; all of a seed before the next."""
    c = config.sweep
    target = {f"target_{c.target[0]}": c.target[1]} if c.target else {}
    found = []
    for seed in range(c.seeds):
        for combination in itertools.product(*(variants for _, variants in c.axes)):
            names = {axis: name for (axis, _), (name, _) in zip(c.axes, combination, strict=True)}
            changes = [change for _, changed in combination for change in changed]
            written = " ".join(f"{key}={value}" for key, value in changes)
            found.append({**names, "seed": seed, "changes": written, **target})
    return found if c.axes else []


def check(config: ConfigDict) -> None:
    """Raises ConfigError where a combination is no valid config, or several processes run the
    job.
    """
    if jax.process_count() > 1:
        raise ConfigError("the job sweep runs on one host; start it without --distributed")
    for setting in settings(config):
        experiment.check(_variant(config, setting))


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether every row is in results.json."""
    return not missing(config, _SECTION, settings(config), workdir)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains each combination whose rows are missing, from the start; curves stay in sweep/."""
    check(config)
    context = Run(config, workdir, lambda section: note(config, section, workdir))
    steps: dict[str, Callable] = {}  # seeds share a compiled step
    left = missing(config, _SECTION, settings(config), workdir)
    for number, setting in enumerate(left, 1):
        logging.info("%s: %d of %d", _name(config, setting), number, len(left))
        context.record(_SECTION, setting, _train(context, setting, steps))
        if not config.sweep.target:
            figure = curves_figure(_curves(context), config.train.disc_start)
            with atomic_write(_folder(context) / "curves.png") as draft:
                figure.savefig(draft, format="png", dpi=110)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """The sweep's part of the page."""
    c = run.config.sweep
    axes = [axis for axis, _ in c.axes]
    if c.target and axes == ["batch_size"]:
        return steps_section(results, c.title)
    return variants_section(results, axes, _curves(run), run.config.train.disc_start, c.title)


def _train(run: Run, setting: Mapping[str, Scalar], steps: dict[str, Callable]) -> list[Result]:
    """The rows of one training."""
    config = _variant(run.config, setting)
    books = building.codebooks(config, run.workdir)
    words = building.vectors(books)
    tokenizer = building.tokenizer(config, words)
    splits = train.images(config, run.workdir, tokenizer)
    trainer = building.trainer(config, tokenizer, len(splits["train"]), run.mesh)
    frozen = trainer.placed_frozen(
        building.frozen_inputs(tokenizer, words, building.lpips_params(config))
    )
    evaluate = evaluator(config, tokenizer, frozen, splits["held_out"], run.mesh)
    step = steps.setdefault(str(setting["changes"]), trainer.step_function())
    found: list[tuple[int, dict[str, float]]] = []

    def remembered(state: Any) -> dict[str, float]:
        found.append((int(state.step), evaluate(state)))
        return found[-1][1]

    target = config.sweep.target
    trainer.fit(
        trainer.placed_state(),
        trainer.loader(splits["train"]),
        frozen,
        evaluate=remembered,
        metric_log=MetricLog(_folder(run) / _name(config, setting), tensorboard=False),
        description=_name(config, setting),
        step=step,
        until=(lambda metrics: _reached(metrics, *target)) if target else None,
    )
    if target:
        return [Result("steps_to_target", steps_to(found, *target), 1, None, setting)]
    last = found[-1][1]
    return [Result(name, last[name], 1, None, setting) for name in METRICS if name in last]


def _reached(metrics: Mapping[str, float], metric: str, target: float) -> bool:
    if metric in _LOWER_IS_BETTER:
        return metrics[metric] <= target
    return metrics[metric] >= target


def steps_to(found: Sequence[tuple[int, Mapping[str, float]]], metric: str, target: float) -> float:
    """Steps until a metric reaches a target, between two evaluations in proportion to it; NaN where
    it never does.

    Args:
      found: steps and metrics of the evaluations, in order.
      metric, target: what is to be reached.
    """
    before: tuple[int, float] | None = None
    for step, metrics in found:
        value = metrics[metric]
        if _reached(metrics, metric, target):
            if before is None:
                return float(step)
            share = (target - before[1]) / (value - before[1])
            return step - (step - before[0]) * (1.0 - share)
        before = step, value
    return math.nan


def _variant(config: ConfigDict, setting: Mapping[str, Scalar]) -> ConfigDict:
    """The config of one training."""
    config = config.copy_and_resolve_references()
    config.seed = int(setting["seed"])
    for axis, variants in config.sweep.axes:
        for key, value in dict(variants)[setting[axis]]:
            if key not in experiment.known():
                raise ConfigError(f"config.sweep.axes changes {key}, which is no key of the config")
            *parents, name = key.split(".")
            part = config
            for parent in parents:
                part = part[parent]
            part[name] = value
    return config


def _curves(run: Run) -> Groups:
    """By variant of the last axis, then by those of the others, the curves of the seeds that are
    there.
    """
    groups: dict[str, dict[str, Bands]] = {}
    for *others, last in _combinations(run.config):
        names = dict(zip((axis for axis, _ in run.config.sweep.axes), (*others, last)))
        logs = [
            _folder(run) / _name(run.config, {**names, "seed": seed}) / FILE_NAME
            for seed in range(run.config.sweep.seeds)
        ]
        logs = [path for path in logs if path.exists()]
        if logs:
            joined = bands([curves_from_rows(read_metrics(path)) for path in logs])
            groups.setdefault(str(last), {})[", ".join(map(str, others))] = joined
    return groups


def _combinations(config: ConfigDict) -> Iterator[tuple[Any, ...]]:
    return itertools.product(*([name for name, _ in variants] for _, variants in config.sweep.axes))


def _folder(run: Run) -> pathlib.Path:
    return run.workdir / _SECTION


def _name(config: ConfigDict, setting: Mapping[str, Scalar]) -> str:
    return ", ".join(
        [*(str(setting[axis]) for axis, _ in config.sweep.axes), f"seed {setting['seed']}"]
    )
