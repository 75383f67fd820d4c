"""A run's folder explains itself: what was asked (config.json), on what machine (environment.json),
how long it took.
"""

import contextlib
import json
import os
import pathlib
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
from ml_collections import ConfigDict

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError, V2LError

_MAY_DIFFER = (
    "jobs",
    "evaluate",
    "finetune",
    "llm",
    "llm_options",
    "mesh",
    "profile",
    "sharding",
    "train.hang_minutes",
    "train.keep_every",
    "train.keep_last",
    "train.loader_workers",
    "train.remat",
)
_ANY_OF_THESE = tuple(f"{name}." for name in _MAY_DIFFER)
_BUCKET = re.compile("[a-z][a-z0-9]+:/")
_PACKAGES = (
    "v2l_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "numpy",
)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: pathlib.Path, default: Any) -> Any:
    """Reads a JSON file; `default` where there is none."""
    return json.loads(path.read_text()) if path.exists() else default


def prepare(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the folder and writes config.json and environment.json.

    What is measured, by which language model, on which devices, and how (`_MAY_DIFFER`) may change
    from call to call: a codebook knows its tokenizer and a result what it was measured on. What
    made the words and the tokenizer may not.

    Raises:
      V2LError: the folder cannot be written.
      ConfigError: the folder is a bucket's address (gs://…), or holds a run of another config; the
        first differing keys are named.
    """
    if _BUCKET.match(str(workdir)):
        raise ConfigError(
            f"the workdir is a folder, and {workdir} looks like a bucket's address; mount the bucket, or share a folder (NFS)"
        )
    asked = json.loads(config.to_json_best_effort())
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        existing = read_json(workdir / "config.json", asked)
        existing["train"] = (
            asked["train"] | existing["train"]
        )  # options that came later are off where nobody asks for them
        differing = sorted(
            key for key in _differences(existing, asked) if not f"{key}.".startswith(_ANY_OF_THESE)
        )
        if differing:
            raise ConfigError(
                f"{workdir} holds a run of another config (differs at {', '.join(differing[:5])}); "
                "name another --workdir, or delete that one"
            )
        write_json(workdir / "config.json", asked)
        write_json(workdir / "environment.json", environment())
    except OSError as error:
        raise V2LError(
            f"cannot write to the workdir {workdir}: {error.strerror or error}; name another --workdir"
        ) from error


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in a.keys() | b.keys():
        left, right = a.get(key, {}), b.get(key, {})
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}"


def environment() -> dict[str, Any]:
    """Versions, devices and the git commit of this run."""
    devices, git = jax.devices(), ""
    here = pathlib.Path(__file__).parent
    with contextlib.suppress(FileNotFoundError):  # a machine without git
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "processes": jax.process_count(),
        "git_commit": git.strip() or None,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def timed(workdir: pathlib.Path, job: str) -> Iterator[None]:
    """Adds the seconds spent inside to timings.json, also when the job is interrupted and goes on
    later.
    """
    start = time.monotonic()
    try:
        yield
    finally:
        timings = read_json(workdir / "timings.json", {})
        timings[job] = round(timings.get(job, 0.0) + time.monotonic() - start, 1)
        with contextlib.suppress(OSError):
            write_json(workdir / "timings.json", timings)
