"""A run that is interrupted anywhere ends bit for bit like one that was not."""

import os
import pathlib
import re
import resource
import runpy
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from v2l_jax.errors import CheckpointError, DataError, NanLossError
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import MAX_STEPS_IN_FLIGHT, PREEMPTED_EXIT_CODE
from v2l_jax.training.metric_log import read_metrics

SCRIPT = pathlib.Path(__file__).with_name("toy_run.py")
toy = types.SimpleNamespace(**runpy.run_path(str(SCRIPT)))


class Killed(Exception):
    pass


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    state = toy.train(workdir)
    return jax.tree.map(np.asarray, state), (workdir / "metrics.jsonl").read_bytes()


def assert_same(state, expected):
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


def saved_steps(workdir):
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.steps()


def test_rows_are_means_over_the_steps_since_the_last(tmp_path):
    toy.train(tmp_path / "each", log_every=1, evaluate=None)
    toy.train(tmp_path / "fives", log_every=5)
    each = [row["loss"] for row in read_metrics(tmp_path / "each" / "metrics.jsonl")]
    fives = read_metrics(tmp_path / "fives" / "metrics.jsonl")
    train = {row["step"]: row["loss"] for row in fives if row["split"] == "train"}
    assert len(each) == toy.NUM_STEPS and list(train) == [5, 10, 15, 20]
    for step, loss in train.items():
        assert loss == pytest.approx(np.mean(each[step - 5 : step]), rel=1e-12)
    assert [row["step"] for row in fives if row["split"] == "eval"] == [8, 16, 23]
    assert np.mean(each[-5:]) < np.mean(each[:5])


@pytest.mark.parametrize("interruption", [kill, terminate], ids=["killed", "terminated"])
@pytest.mark.parametrize("steps", [(1,), (7,), (8,), (9,), (17, 18, 23), (12, 13, 14)], ids=str)
def test_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path, uninterrupted, steps, interruption
):
    for step in steps:
        with pytest.raises((Killed, SystemExit)) as raised:
            toy.train(tmp_path, loader=toy.Loader({step: interruption}))
        if raised.type is SystemExit:
            assert raised.value.code == PREEMPTED_EXIT_CODE == 143
            assert saved_steps(tmp_path)[-1] == step
    assert_same(toy.train(tmp_path), uninterrupted[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted[1]


def test_terminated_twice_before_the_evaluation_that_is_due(tmp_path, uninterrupted):
    for step in (8, 9):
        with pytest.raises(SystemExit):
            toy.train(tmp_path, loader=toy.Loader({step: terminate}))
    assert_same(toy.train(tmp_path), uninterrupted[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted[1]


def test_terminated_while_the_last_step_is_evaluated(tmp_path, uninterrupted):
    """The run is whole, but what would follow it is not begun."""

    def evaluate(state):
        terminate()
        return toy.evaluate(state)

    with pytest.raises(SystemExit) as raised:
        toy.train(tmp_path, evaluate=evaluate, eval_every=toy.NUM_STEPS)
    assert raised.value.code == PREEMPTED_EXIT_CODE
    assert saved_steps(tmp_path)[-1] == toy.NUM_STEPS
    assert_same(toy.train(tmp_path, step_fn=lambda *_: kill()), uninterrupted[0])


def test_finished_run_returns_at_once(tmp_path, uninterrupted):
    toy.train(tmp_path)
    assert_same(
        toy.train(tmp_path, loader=toy.Loader({24: kill}), step_fn=lambda *_: kill()),
        uninterrupted[0],
    )
    longer = toy.train(tmp_path, num_steps=25)
    assert int(longer.step) == 25


def run_script(workdir, *arguments):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    return subprocess.run(
        [sys.executable, SCRIPT, workdir, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sigkill_then_the_same_command_ends_like_an_uninterrupted_run(tmp_path, uninterrupted):
    for step in ("9", "19"):  # right after the saves of 8 and 18 began
        assert run_script(tmp_path, "SIGKILL", step).returncode == -signal.SIGKILL
    done = run_script(tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "final.npz") as final:
        assert_same([final[name] for name in final.files], uninterrupted[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted[1]


def test_sigterm_saves_and_exits_143(tmp_path):
    stopped = run_script(tmp_path, "SIGTERM", "10")
    assert stopped.returncode == 143
    assert saved_steps(tmp_path)[-1] == 10
    assert "saved at step 10 of 23" in stopped.stderr and "Traceback" not in stopped.stderr


@pytest.mark.parametrize("step", [1, 9, 14, 23])
def test_nan_loss_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, step):
    with pytest.raises(NanLossError) as raised:
        toy.train(tmp_path, step_fn=toy.make_step(nan_loss_at=step), eval_every=None)
    assert f"loss is nan at step {step};" in str(raised.value) and "\n" not in str(raised.value)
    good = {1: [], 9: [6], 14: [6, 12], 23: [12, 18]}[step]
    assert saved_steps(tmp_path) == good
    assert (f"step {good[-1]} in {tmp_path}" if good else "no checkpoint yet") in str(raised.value)


def test_state_that_is_not_finite_is_never_saved(tmp_path):
    with pytest.raises(NanLossError, match="state has values that are not finite after step 12"):
        toy.train(tmp_path, step_fn=toy.make_step(nan_params_at=12), eval_every=None)
    assert saved_steps(tmp_path) == [6]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_stops_the_run_with_one_line_and_it_can_go_on(tmp_path, uninterrupted):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))

    try:
        with pytest.raises(CheckpointError) as raised:
            toy.train(tmp_path, loader=toy.Loader({11: fill}), log_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = re.search(
        r"cannot save the checkpoint of step (\d+) .* step (\d+) is intact", str(raised.value)
    )
    assert found and "\n" not in str(raised.value)
    assert (
        saved_steps(tmp_path)[-1] == int(found[2]) < int(found[1]) <= 12
    )  # 12, or 8 while it was still being written
    assert_same(toy.train(tmp_path), uninterrupted[0])


def test_data_that_runs_out_is_named(tmp_path):
    with pytest.raises(DataError, match="ran out before step 5"):
        toy.train(tmp_path, loader=toy.Loader(steps=4))


def test_training_ends_at_the_evaluation_that_is_good_enough(tmp_path):
    asked = []

    def until(metrics):
        asked.append(metrics["distance"])
        return len(asked) == 2

    state = toy.train(tmp_path, until=until)
    assert int(state.step) == 16 and len(asked) == 2 and saved_steps(tmp_path)[-1] == 16


def test_best_checkpoint_is_kept(tmp_path):
    scores = {8: 0.3, 16: 0.1, 23: 0.2}
    toy.train(tmp_path, evaluate=lambda state: {"distance": np.float32(scores[int(state.step)])})
    assert saved_steps(tmp_path) == [16, 18, 23]


def test_host_does_not_wait_for_each_step(tmp_path):
    """Metrics are read only once MAX_STEPS_IN_FLIGHT later steps have been started."""
    started, read = [], []

    class Metric:
        def __init__(self, step, value):
            self.step, self.value = step, value

        def copy_to_host_async(self):
            pass

        def __array__(self, dtype=None, copy=None):
            read.append((self.step, len(started)))
            return np.asarray(self.value)

    step_fn = toy.make_step()

    def watched(state, batch, frozen):
        state, metrics = step_fn(state, batch, frozen)
        started.append(metrics)
        return state, {"loss": Metric(len(started), metrics["loss"])}

    toy.train(tmp_path, step_fn=watched, checkpoint_every=None, eval_every=None)
    assert [step for step, _ in read] == list(range(1, toy.NUM_STEPS + 1))
    assert all(ahead - step == MAX_STEPS_IN_FLIGHT for step, ahead in read[:-MAX_STEPS_IN_FLIGHT])
