"""A run's folder explains itself: what was asked (config.json), on what machine (environment.json),
how long it took.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import filelock
import jax
from absl import logging

import v2l_jax
from v2l_jax import buckets
from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError, V2LError
from v2l_jax.formats import text_files
from v2l_jax.run.paths import training_path
from v2l_jax.training.checkpoints import check_name

_MADE_FROM = "training.json"
_REMEDY = "delete it, or name another --workdir"
_BUCKET = re.compile("[a-z][a-z0-9]+:/")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: pathlib.Path, default: Any) -> Any:
    """Reads a JSON file of a run's folder; `default` where there is none.

    Raises:
      V2LError: the file is damaged, or holds another kind of value than a `default` that is a dict.
    """
    if not path.exists():
        return default
    kind = dict if isinstance(default, dict) else None
    return text_files.read_json(path, V2LError, kind, _REMEDY)


def prepare(
    workdir: pathlib.Path, asked: Mapping[str, Any], may_differ: Callable[[str, Any, Any], bool]
) -> None:
    """Makes the folder and writes config.json.

    Args:
      workdir: the run's folder.
      asked: the config by dotted path.
      may_differ: says of a path, its value in the folder and the value asked for whether the folder
        can be gone on with.

    Raises:
      V2LError: the folder cannot be written, its config.json is damaged, or checkpoints cannot be
        kept under its name.
      ConfigError: the folder is a bucket's address (gs://…), or holds a run of another config; the
        first differing keys are named.
    """
    if _BUCKET.match(str(workdir)):
        raise ConfigError(
            f"the workdir is a folder, and {workdir} looks like a bucket's address; such are given "
            "to the command line as --workdir=gs://bucket/folder"
        )
    asked = json.loads(json.dumps(asked))
    if set(asked.get("jobs", ())) & {"train", "finetune", "sweep"}:
        check_name(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        there = read_json(workdir / "config.json", {})
        existing = dict(_leaves(there, asked))
        differing = sorted(
            key
            for key, value in existing.items()
            if key in asked and value != asked[key] and not may_differ(key, value, asked[key])
        )
        if differing:
            raise ConfigError(
                f"{buckets.shown(workdir)} holds a run of another config (differs at "
                f"{', '.join(differing[:5])}); name another --workdir, or delete that one"
            )
        write_json(workdir / "config.json", _nested(asked))
    except OSError as error:
        raise V2LError(
            f"cannot write to the workdir {workdir}: {error.strerror or error}; name another "
            "--workdir"
        ) from error


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second run from writing into the folder; the operating system lets go of it when the
    process ends, however it ends. A bucket's folder is locked in the bucket (`buckets.locked`).

    Raises:
      V2LError: another process writes into it.
    """
    if buckets.direct(workdir):
        with buckets.locked(workdir):
            yield
        return
    lock = filelock.FileLock(workdir / ".lock", timeout=0)
    try:
        if not _BUCKET.match(str(workdir)):
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except filelock.Timeout as error:
        raise V2LError(
            f"another run is writing into {workdir}; wait for it, or name another --workdir"
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system without locks
        logging.info("%s cannot be locked (%s); start no second run in it", workdir, error)
    try:
        yield
    finally:
        lock.release()


def _leaves(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator:
    """(dotted path, value) of a nested mapping; a mapping at a known path is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in known:
            yield from _leaves(value, known, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = value
    return tree


@functools.cache
def code_version() -> str:
    """The commit that this code is of, with "-dirty" and a digest where files differ from it; the
    package's version where neither git nor `git archive` says.
    """
    here = pathlib.Path(__file__).parents[1]

    def git(*words: str) -> bytes:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else b""

    try:
        commit, change = (
            git("rev-parse", "--short=12", "HEAD").decode(),
            git("diff", "HEAD", "--", "."),
        )
    except FileNotFoundError:
        commit, change = "", b""
    if not commit:
        archived = not v2l_jax.__commit__.startswith("$")
        return v2l_jax.__commit__[:12] if archived else f"v{v2l_jax.__version__}"
    return commit + (f"-dirty-{hashlib.sha256(change).hexdigest()[:8]}" if change else "")


def is_from_this_training(folder: pathlib.Path, workdir: pathlib.Path) -> bool:
    """Whether what a job wrote into a folder was made with the tokenizer as it is trained now, and
    not before a run was prolonged; folders of earlier versions do not say and are taken as they
    are.
    """
    noted = read_json(folder / _MADE_FROM, None)
    return noted is None or noted == read_json(training_path(workdir), {})


def note_training(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Notes beside what a job writes which training it is made from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _MADE_FROM, read_json(training_path(workdir), {}))


def note_unmarked(folders: Sequence[pathlib.Path], workdir: pathlib.Path) -> None:
    """`note_training` in those folders that are there and do not say yet."""
    for folder in folders:
        if folder.exists() and not (folder / _MADE_FROM).exists():
            note_training(folder, workdir)


def environment() -> dict[str, Any]:
    """Versions, devices and the commit of this process."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "processes": jax.process_count(),
        "git_commit": code_version(),
        "packages": {"v2l_jax": v2l_jax.__version__} | {n: _version(n) for n in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environments(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """An entry for each job that wrote into the folder: "job", "began", and `environment`'s
    fields.
    """
    path = workdir / "environment.json"
    noted = read_json(path, [])
    noted = [noted] if isinstance(noted, Mapping) else noted  # folders of earlier versions have one
    if not isinstance(noted, list) or not all(isinstance(one, Mapping) for one in noted):
        raise V2LError(f"{path} is damaged: it holds no list of objects; {_REMEDY}")
    return noted


@contextlib.contextmanager
def timed(workdir: pathlib.Path, job: str) -> Iterator[None]:
    """Notes the job's environment, and adds the seconds spent inside to timings.json, also when the
    job is interrupted and goes on later.
    """
    read_json(workdir / "timings.json", {})  # damage is said before the work, not after
    start, began = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = {"job": job, "began": began} | environment()
    write_json(workdir / "environment.json", [*environments(workdir), entry])
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _add_seconds(workdir / "timings.json", job, time.monotonic() - start)


def _add_seconds(path: pathlib.Path, job: str, seconds: float) -> None:
    timings = read_json(path, {})
    before = timings.get(job, 0.0)
    if not isinstance(before, (int, float)):
        raise V2LError(f"{path} is damaged: {job} took {before!r:.40} seconds; {_REMEDY}")
    write_json(path, timings | {job: round(before + seconds, 1)})
