"""Steps to a target, on a tiny run over noise."""

import pytest
from ml_collections import ConfigDict

from tests import synthetic_config
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import evaluate
from v2l_jax.run.workdir import read_json
from v2l_jax.tasks import scaling


@pytest.fixture
def config():
    config = synthetic_config.get_config()
    config.evaluate.tasks = ("scaling",)
    config.evaluate.scaling = ConfigDict(
        {"batch_sizes": (8, 16, 24), "seeds": 2, "max_steps": 4, "eval_every": 2}
    )
    config.evaluate.scaling.target_psnr = 5.0
    return config


def test_a_row_set_for_each_size_and_seed(config):
    experiment.check(config)
    rows = scaling.settings(config)
    assert [(row["batch_size"], row["seed"]) for row in rows] == [
        (8, 0),
        (8, 1),
        (16, 0),
        (16, 1),
        (24, 0),
        (24, 1),
    ]
    config.train.micro_batches = 16
    with pytest.raises(ConfigError, match="has 8, no multiple"):
        scaling.check(config)


def test_steps_are_recorded_and_a_missed_target_is_no_number(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    config.llm = synthetic_config.fill(workdir)[-1].partition("=")[2]
    rising = iter([3.0, 7.0, 1.0, 2.0])
    monkeypatch.setattr(scaling.train, "evaluator", lambda *_: lambda state: {"psnr": next(rising)})
    run = evaluate.open_run(config, workdir)
    missing = scaling.settings(config)[:2]
    scaling.measure(run, missing)
    rows = read_json(workdir / "results.json", None)
    assert [row["value"] for row in rows] == [
        3.0,
        None,
    ]  # halfway from step 2 to 4; never within 4 steps
    assert [row["batch_size"] for row in rows] == [8, 8] and rows[0]["target_psnr"] == 5.0
