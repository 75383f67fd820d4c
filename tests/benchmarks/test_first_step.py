"""The time to the first step: a process with empty caches, then one that finds what that left."""

import json
import pathlib
import subprocess
import types

import pytest

from benchmarks import first_step


@pytest.fixture
def processes(monkeypatch):
    """What was started; each process takes as long as the caches are empty."""
    started = []

    def run(command, env, check):
        cache = pathlib.Path(env[first_step._OWN_CACHE])
        seconds = 1.0 if (cache / "program").exists() else 10.0
        (cache / "program").touch()
        parts = {"state": 0.25, "compile": seconds, "step": 0.5, "cpu": 2 * seconds}
        (cache / "seconds.json").write_text(json.dumps(parts))
        started.append(command)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return started


def test_the_second_process_has_the_caches_of_the_first(processes):
    rows = list(first_step.rows(["--config.train.batch_size=4"]))
    assert rows == [
        ["caches empty", "10.8", "20.0", "0.2", "10.0", "0.5"],
        ["caches filled", "1.8", "2.0", "0.2", "1.0", "0.5"],
    ]
    assert len(rows[0]) == len(first_step.HEAD)
    assert all(command[-1] == "--config.train.batch_size=4" for command in processes)


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=3))
    with pytest.raises(RuntimeError, match="the first step with caches empty ended with 3"):
        next(first_step.rows([]))
