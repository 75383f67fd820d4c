"""Numbers: every task of `config.evaluate.tasks`, measured and written to results.json row by row."""

import pathlib
from collections.abc import Mapping, Sequence

from absl import logging
from ml_collections import ConfigDict

from v2l_jax.metrics.results import Result, Scalar, read_results
from v2l_jax.run.run import Run
from v2l_jax.tasks import tasks


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether every number asked for is in results.json."""
    results = read_results(workdir / "results.json")
    return not any(_missing(config, task, results) for task in config.evaluate.tasks)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Measures what results.json lacks; rows that are there are not measured again."""
    context = Run(config, workdir)
    for task in config.evaluate.tasks:
        missing = _missing(config, task, read_results(workdir / "results.json"))
        if missing:
            module = tasks()[task]
            logging.info("%s: %s", task, (module.__doc__ or "").splitlines()[0])
            module.measure(context, missing)


def check(config: ConfigDict) -> None:
    """Raises, before any job has run, for a task that cannot work."""
    for task in config.evaluate.tasks:
        tasks()[task].check(config)


def _missing(config: ConfigDict, task: str, results: Sequence[Result]) -> list[dict[str, Scalar]]:
    rows = [result.measured_on for result in results]
    fixed = {"task": task, "llm": config.llm}
    return [
        setting
        for setting in tasks()[task].settings(config)
        if not any(_has(row, fixed | setting) for row in rows)
    ]


def _has(row: Mapping[str, Scalar], setting: Mapping[str, Scalar]) -> bool:
    return all(key in row and row[key] == value for key, value in setting.items())
