"""The loop says whether the devices wait for data, and never because of what hides behind their
work.
"""

import logging as python_logging
import pathlib
import re
import runpy
import time
import types

import jax
import jax.numpy as jnp
import pytest

from v2l_jax.training.pace import Pace

toy = types.SimpleNamespace(**runpy.run_path(str(pathlib.Path(__file__).with_name("toy_run.py"))))

STEP_SECONDS, SLOW_SECONDS = 0.01, 0.04


class Running:
    """What a step returns while the devices still work on it: they begin when they are free, and
    take STEP_SECONDS.
    """

    free_at = 0.0

    def __init__(self):
        Running.free_at = self.ends_at = max(Running.free_at, time.perf_counter()) + STEP_SECONDS

    def block_until_ready(self):
        time.sleep(max(0.0, self.ends_at - time.perf_counter()))
        return self


def run(read_seconds: float, steps: int = 25, ahead: int = 4) -> Pace:
    """A loop as in `fit`, whose loader takes `read_seconds` for a batch of 8."""
    started = []
    with Pace() as pace:
        for _ in range(steps):
            with pace.fetching():
                time.sleep(read_seconds)
            started.append(Running())
            pace.started(8, started[-1])
            if len(started) > ahead:
                started[-1 - ahead].block_until_ready()
            pace.check()
    return pace


def rates(text: str) -> tuple[float, float]:
    found = re.search(
        r"it gives(?: at least)? ([\d.e+]+) images/s, the step could take ([\d.e+]+)", text
    )
    return float(found[1]), float(found[2])


def test_a_slow_loader_is_named_once_with_both_rates(caplog):
    with caplog.at_level(python_logging.WARNING):
        pace = run(SLOW_SECONDS)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        "the input pipeline is the bottleneck" in warning
        and "raise config.train.loader_workers" in warning
    )
    pipeline, step = rates(warning)
    assert pipeline == pytest.approx(8 / SLOW_SECONDS, rel=0.3)
    assert step == pytest.approx(8 / STEP_SECONDS, rel=0.5) and step > 2 * pipeline
    assert pace.images == 24 * 8  # the first step compiles and does not count


def test_reading_behind_the_devices_work_is_no_wait(caplog):
    with caplog.at_level(python_logging.INFO, logger="absl"):
        pace = run(STEP_SECONDS / 4)
    assert pace.starved < 0.1 * pace.busy
    assert pace.busy == pytest.approx(24 * STEP_SECONDS, rel=0.3)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert "it gives at least" in caplog.text


class SlowLoader(toy.Loader):
    def __next__(self):
        time.sleep(SLOW_SECONDS / 4)
        return super().__next__()


def test_the_training_loop_warns_and_its_rows_do_not_change(tmp_path, caplog):
    with caplog.at_level(python_logging.WARNING):
        toy.train(tmp_path / "slow", loader=SlowLoader())
    assert caplog.text.count("the input pipeline is the bottleneck") == 1
    toy.train(tmp_path / "usual")
    assert (tmp_path / "slow" / "metrics.jsonl").read_bytes() == (
        tmp_path / "usual" / "metrics.jsonl"
    ).read_bytes()


def test_the_training_loop_does_not_warn_of_a_fast_loader(tmp_path, caplog):
    step_fn = toy.make_step()

    @jax.jit
    def work(x):
        return jax.lax.fori_loop(0, 200, lambda _, x: jnp.tanh(x @ x), x)

    def heavy(state, batch, frozen):
        state, metrics = step_fn(state, batch, frozen)
        return state, dict(metrics) | {"work": work(jnp.full((128, 128), metrics["loss"]))[0, 0]}

    with caplog.at_level(python_logging.WARNING):
        toy.train(tmp_path, step_fn=heavy)
    assert "bottleneck" not in caplog.text


def test_a_step_that_fails_ends_the_loop_with_its_own_error():
    class Failing:
        def block_until_ready(self):
            raise RuntimeError("device")

    with pytest.raises(ValueError, match="loop"), Pace() as pace:
        pace.started(8, Failing())
        raise ValueError("loop")
