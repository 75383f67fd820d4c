"""Runs the jobs of a config in order, each in its workdir, each once."""

import contextlib
import errno
import importlib
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from v2l_jax import buckets, experiment, options
from v2l_jax.errors import V2LError
from v2l_jax.jobs import evaluate, sweep
from v2l_jax.ops import cpu_settings
from v2l_jax.parallel.processes import barrier, broadcast, is_primary
from v2l_jax.run import workdir as workdirs


def start() -> None:
    """Prepares the process before JAX's first computation: XLA's flags for this CPU, with a line
    that says so, and a compile cache that outlives the process.
    """
    cpu_settings.apply()
    cache = (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        / "v2l_jax"
        / "compiled"
    )
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def folder(place: str) -> contextlib.AbstractContextManager[pathlib.Path]:
    """The folder of a run, for as long as the block runs; that of a bucket (gs://…) through a local
    copy, see `buckets`.
    """
    if buckets.is_address(place):
        return buckets.opened(place)
    return contextlib.nullcontext(pathlib.Path(place).expanduser())


def run_jobs(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `config.jobs` in order.

    Of several processes all take part in a job that says `EVERY_PROCESS`; the first does each of
    the others on its own devices while the rest wait. They need to see one workdir.

    Args:
      config: the whole experiment; see configs/quickstart.py.
      workdir: where the run's files go; a job whose output is there is skipped.

    Raises:
      ConfigError: an unknown job or a bad value, before anything runs.
      V2LError: whatever stopped a job, in one line.
    """
    experiment.check(config)
    with workdirs.locked(workdir) if is_primary() else contextlib.nullcontext():
        if is_primary():
            prepare(workdir, config)
        barrier("workdir")
        _run_in_order(config, workdir)


def _run_in_order(config: ConfigDict, workdir: pathlib.Path) -> None:
    for name, job in (("evaluate", evaluate), ("sweep", sweep)):
        if name in config.jobs and not job.is_done(config, workdir):
            job.check(config)
    for number, name in enumerate(config.jobs, 1):
        job = importlib.import_module(f"v2l_jax.jobs.{name}")
        headline = f"[{number}/{len(config.jobs)}] {name}"
        if broadcast(job.is_done(config, workdir)):
            logging.info("%s: done before, in %s", headline, buckets.shown(workdir))
            continue
        logging.info("%s: %s", headline, (job.__doc__ or "").splitlines()[0])
        began = time.monotonic()
        with (
            storage_failures(workdir),
            workdirs.timed(workdir, name) if is_primary() else contextlib.nullcontext(),
        ):
            if is_primary() or getattr(job, "EVERY_PROCESS", False):
                job.run(config, workdir)
        buckets.push()
        barrier(name)
        logging.info("%s: %.0f s", headline, time.monotonic() - began)


_NO_STORAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EACCES,
    errno.EPERM,
)  # fmt: skip
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's words for a full disk


@contextlib.contextmanager
def storage_failures(workdir: pathlib.Path) -> Iterator[None]:
    """Says in one line that a disk is full, a quota used up or a folder read-only, whichever
    library met it. What was written before is whole: files get their names when they are complete.

    Raises:
      V2LError: storage failed; any other error passes.
    """
    try:
        yield
    except V2LError:
        raise
    except Exception as error:
        reason = _storage_reason(error)
        if reason is None:
            raise
        where = getattr(error, "filename", None) or workdir
        raise V2LError(
            f"cannot write {where}: {reason}; what was there before is whole: make room or choose "
            "another --workdir, and run again, which goes on where this stopped"
        ) from error


def _storage_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _NO_STORAGE:
        return error.strerror or str(error)
    if isinstance(error, OSError) and _SHORT_WRITE.search(str(error)):
        return os.strerror(errno.ENOSPC)
    known = map(os.strerror, _NO_STORAGE)
    return next((words for words in known if words.lower() in str(error).lower()), None)


def prepare(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the folder of a run, or checks that it is of such a run; see `run.workdir.prepare`."""
    workdirs.prepare(workdir, dict(options.flatten(config, experiment.known())), may_differ)


def may_differ(path: str, there: Any, asked: Any) -> bool:
    """Whether a workdir can be gone on with where one option's value is another.

    What is measured, by which language model, on which devices, and how, may change from call to
    call: a codebook knows its tokenizer and a result its identity. Training may be prolonged. What
    made the codebook and the tokenizer may not change.
    """
    if path in ("train.steps", "train.epochs"):
        return asked > there > 0
    unused = path.startswith(("data.synthetic_", "data.tfds_dir"))
    return unused or path.startswith(_FREE) or not experiment.known()[path].changes_results


_FREE = (
    "evaluate.", "finetune.", "representation.", "sweep.", "release.", "llm", "train.eval_every",
)  # fmt: skip
