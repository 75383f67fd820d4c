"""The command, as a person types it: each wrong call ends in one clear line; a killed run ends like
an unbroken one.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "v2l_jax.main", *flags]


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )


def last_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_help_says_what_it_does_and_how():
    result = run("--help")
    assert result.returncode == 0
    for text in ("--config=configs/quickstart.py", "--workdir", "codebook"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=tests/tiny_config.py", "--config.train.stepz=3"], "stepz.*steps"),
        (["--config=tests/tiny_config.py", "--config.train.steps=many"], "steps"),
        (["--config=configs/absent.py"], "absent.py"),
        (
            ["--config=tests/tiny_config.py", "--config.llm_options.dtype=float8"],
            "config.llm_options.dtype is 'float8'",
        ),
        (
            ["--config=tests/tiny_config.py", "--workdir=/proc/nowhere/run"],
            "cannot write to the workdir /proc/nowhere/run",
        ),
        (
            ["--config=tests/tiny_config.py", "--config.llm=/no/such/model", "--workdir={tmp}"],
            "/no/such/model",
        ),
    ],
)
def test_wrong_calls_end_in_one_line(flags, message, tmp_path):
    line = last_line(run(*(flag.format(tmp=tmp_path) for flag in flags)))
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_a_killed_training_ends_like_an_unbroken_one(tmp_path):
    flags = [
        "--config=tests/tiny_config.py",
        "--config.jobs=('codebook','train')",
        "--config.codebook.ngrams=1",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished = run(*flags, f"--workdir={whole}")
    assert finished.returncode == 0, finished.stderr[-2000:]

    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command(*flags, f"--workdir={broken}"), cwd=ROOT, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline and not _checkpoints(broken):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (broken / "training.json").exists()
    resumed = run(*flags, f"--workdir={broken}")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "goes on from step" in resumed.stderr
    assert (broken / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    ours, theirs = _final_parameters(broken), _final_parameters(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert json.loads((broken / "training.json").read_text()) == json.loads(
        (whole / "training.json").read_text()
    )


def _checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def _final_parameters(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    import jax
    import orbax.checkpoint as ocp

    newest = max(_checkpoints(workdir), key=lambda p: int(p.name))
    tree = ocp.StandardCheckpointer().restore(newest / "state")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
