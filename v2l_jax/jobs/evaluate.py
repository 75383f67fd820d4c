"""Numbers: every task of `config.evaluate.tasks`, measured and written to results.json row by row."""

import pathlib
from collections.abc import Mapping

from absl import logging
from ml_collections import ConfigDict

from v2l_jax.jobs.identity import note, row_fields
from v2l_jax.metrics.results import Scalar, read_results
from v2l_jax.run.run import Run
from v2l_jax.tasks import tasks


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether every number asked for is in results.json."""
    return not any(_missing(config, task, workdir) for task in config.evaluate.tasks)


def open_run(config: ConfigDict, workdir: pathlib.Path) -> Run:
    """A run whose rows say what they depend on."""
    return Run(config, workdir, lambda task: note(config, f"evaluate.{task}", workdir))


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Measures what results.json lacks; rows that are there are not measured again."""
    context = open_run(config, workdir)
    for task in config.evaluate.tasks:
        missing = _missing(config, task, workdir)
        if missing:
            module = tasks()[task]
            logging.info("%s: %s", task, (module.__doc__ or "").splitlines()[0])
            module.measure(context, missing)


def check(config: ConfigDict) -> None:
    """Raises, before any job has run, for a task that cannot work."""
    for task in config.evaluate.tasks:
        tasks()[task].check(config)


def _missing(config: ConfigDict, task: str, workdir: pathlib.Path) -> list[dict[str, Scalar]]:
    """The settings of a task that have no row of this language model and this identity."""
    rows = [result.measured_on for result in read_results(workdir / "results.json")]
    digest = row_fields(config, f"evaluate.{task}", workdir)["identity"]
    fixed = {"task": task, "llm": config.llm, "identity": digest}
    return [
        setting
        for setting in tasks()[task].settings(config)
        if not any(_has(row, fixed | setting) for row in rows)
    ]


def _has(row: Mapping[str, Scalar], setting: Mapping[str, Scalar]) -> bool:
    return all(key in row and row[key] == value for key, value in setting.items())
