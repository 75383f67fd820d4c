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
from absl import flags

from tests import synthetic_config
from v2l_jax import command_line
from v2l_jax import main as program

ROOT = pathlib.Path(__file__).parents[1]


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "v2l_jax.main", *flags]


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*flags), cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def main():
    """The command without a process of its own: what it would exit with."""
    if "config" not in flags.FLAGS:
        command_line.define_config()

    def call(*given: str) -> object:
        flags.FLAGS.unparse_flags()
        with pytest.raises(SystemExit) as exit_:
            program.main(command_line.parse_flags(["main", *given]))
        return exit_.value.code

    return call


def test_help_says_what_it_does_and_every_option():
    result = run("--help")
    assert result.returncode == 0
    for text in (
        "--config=configs/quickstart.py",
        "--workdir",
        "codebook",
        "--config.train.steps=",
    ):
        assert text in result.stdout


def test_a_wrong_call_ends_in_one_line_and_code_1():
    result = run("--config=tests/tiny_config.py", "--config.train.stepz=3")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "error: unknown key config.train.stepz; did you mean"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--config.train.steps=many"], "config.train.steps is 'many'"),
        (["--config=configs/absent.py"], "there is no config file configs/absent.py"),
        (["--config.llm_options.dtype=float8"], "config.llm_options.dtype is 'float8'"),
        (["--workdir=/proc/nowhere/run"], "cannot write to the workdir /proc/nowhere/run"),
        (["--config.llm=/no/such/model", "--workdir={tmp}"], "/no/such/model"),
        (["--workdirr=x"], "[Uu]nknown command line flag 'workdirr'"),
    ],
)
def test_wrong_calls_end_in_one_line(main, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = main("--config=tests/tiny_config.py", *(flag.format(tmp=tmp_path) for flag in given))
    assert line.startswith("error: ") and "\n" not in line
    assert re.search(message, line), line


def test_a_killed_training_ends_like_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished = run(*synthetic_config.fill(whole))
    assert finished.returncode == 0, finished.stderr[-2000:]

    again = synthetic_config.fill(broken)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command(*again), cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None and not _checkpoints(broken):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (broken / "training.json").exists()
    resumed = run(*again)
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
