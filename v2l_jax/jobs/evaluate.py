"""Numbers: every task of `config.evaluate.tasks`, measured and written to results.json row by
row.
"""

import pathlib

from absl import logging
from ml_collections import ConfigDict

from v2l_jax.jobs.identity import missing, note
from v2l_jax.llm import shared_engine
from v2l_jax.metrics.results import Scalar
from v2l_jax.parallel.processes import is_primary
from v2l_jax.run.run import Run
from v2l_jax.tasks import tasks
from v2l_jax.tasks.harness.tuned import of_model

EVERY_PROCESS = True
"""Several processes share this job; see `runner.run_jobs`."""


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether every number asked for is in results.json."""
    return not any(_missing(config, task, workdir) for task in config.evaluate.tasks)


def open_run(config: ConfigDict, workdir: pathlib.Path, together: bool = False) -> Run:
    """A run whose rows say what they depend on; `together`: all processes answer its prompts."""
    noted = lambda task: note(config, f"evaluate.{task}", workdir)
    return Run(config, workdir, noted, together=together)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Measures what results.json lacks; rows that are there are not measured again. The first of
    several processes runs the tasks, and all answer their prompts.
    """
    if not is_primary():
        own = Run(config, workdir)
        shared_engine.serve(lambda model: of_model(own, model).engine)
        return
    context = open_run(config, workdir, together=True)
    for task in config.evaluate.tasks:
        left = _missing(config, task, workdir)
        if left:
            module = tasks()[task]
            logging.info("%s: %s", task, (module.__doc__ or "").splitlines()[0])
            module.measure(context, left)
    shared_engine.finished()


def check(config: ConfigDict) -> None:
    """Raises, before any job has run, for a task that cannot work."""
    for task in config.evaluate.tasks:
        tasks()[task].check(config)


def _missing(config: ConfigDict, task: str, workdir: pathlib.Path) -> list[dict[str, Scalar]]:
    return missing(config, f"evaluate.{task}", tasks()[task].settings(config), workdir)
