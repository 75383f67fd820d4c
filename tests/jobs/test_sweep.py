"""Sweeps on a tiny run over noise: which trainings, what is recorded, and what is not done
twice.
"""

import math

import pytest

from tests import synthetic_config
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import evaluate, sweep
from v2l_jax.metrics.results import read_results
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.training.metric_log import read_metrics
from v2l_jax.training.trainer import Trainer

REVIVAL = ("revival", (("train.projector_revive_every", 2),))


@pytest.fixture
def config():
    config = synthetic_config.get_config()
    config.jobs = ("sweep",)
    config.train.update(steps=4, disc_start=1, log_every=1, eval_every=2, learning_rate=1e-3)
    config.sweep.axes = (("start", (("published", ()),)), ("remedy", (("none", ()), REVIVAL)))
    config.sweep.seeds = 2
    return config


def test_a_row_set_for_each_combination_and_seed(config):
    experiment.check(config)
    sweep.check(config)
    rows = sweep.settings(config)
    assert [(row["start"], row["remedy"], row["seed"], row["changes"]) for row in rows] == [
        ("published", "none", 0, ""),
        ("published", "revival", 0, "train.projector_revive_every=2"),
        ("published", "none", 1, ""),
        ("published", "revival", 1, "train.projector_revive_every=2"),
    ]
    config.sweep.axes = ()
    assert sweep.settings(config) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.projector_revive", 2, "changes train.projector_revive, which is no key"),
        ("train.disc_start", -1, "config.train.disc_start is -1"),
        ("train.micro_batches", 3, "multiple of config.train.micro_batches"),
    ],
)
def test_a_variant_that_cannot_train_is_refused_before_any_does(config, key, value, message):
    config.sweep.axes = (("remedy", (("none", ()), ("wrong", ((key, value),)))),)
    with pytest.raises(ConfigError, match=message):
        sweep.check(config)


@pytest.mark.parametrize("variants", [(), ("none",), (("none", ("disc_start", 1)),), (("", ()),)])
def test_variants_have_names_and_pairs(config, variants):
    config.sweep.axes = (("remedy", variants),)
    with pytest.raises(ConfigError, match="config.sweep.axes is"):
        experiment.check(config)


def test_what_is_there_is_not_trained_again(config, tmp_path, monkeypatch):
    """Rows, curves, table and figure; then a killed sweep goes on with the seeds that are missing,
    to the same numbers.
    """
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    sweep.run(config, tmp_path)
    rows = read_json(tmp_path / "results.json", None)
    names = ["codebook_usage", "perplexity", "dead_words", "psnr"]
    assert [row["metric"] for row in rows[:4]] == names and len(rows) == 16
    last = {(row["remedy"], row["seed"], row["metric"]): row["value"] for row in rows}
    for remedy in ("none", "revival"):
        for seed in (0, 1):
            folder = tmp_path / "sweep" / f"published, {remedy}, seed {seed}"
            log = read_metrics(folder / "metrics.jsonl")
            assert log[-1] | {"step": 4, "split": "eval"} == log[-1]
            assert log[-1]["dead_words"] == last[remedy, seed, "dead_words"]
    assert (tmp_path / "sweep" / "curves.png").stat().st_size > 10_000
    assert sweep.is_done(config, tmp_path)
    section = sweep.section(
        evaluate.open_run(config, tmp_path), read_results(tmp_path / "results.json")
    )
    shown = [row[0] for row in section.tables[0].rows]
    assert shown == ["published, none", "published, revival"] and len(section.figures) == 2

    kept = [row for row in rows if (row["remedy"], row["seed"]) != ("revival", 1)]
    write_json(tmp_path / "results.json", kept)
    trained, fit = [], Trainer.fit

    def counted(trainer, *args, **options):
        trained.append(options["description"])
        return fit(trainer, *args, **options)

    monkeypatch.setattr(Trainer, "fit", counted)
    sweep.run(config, tmp_path)
    assert trained == ["published, revival, seed 1"]
    again = {
        (row["remedy"], row["seed"], row["metric"]): row["value"]
        for row in read_json(tmp_path / "results.json", None)
    }
    assert again == last


def test_steps_to_a_target_are_recorded_and_a_missed_target_is_no_number(
    config, tmp_path, monkeypatch
):
    config.llm = synthetic_config.fill(tmp_path)[-1].partition("=")[2]
    config.sweep.axes = (("batch_size", tuple((n, (("train.batch_size", n),)) for n in (8, 16))),)
    config.sweep.seeds, config.sweep.target = 1, ("psnr", 5.0)
    experiment.check(config)
    rising = iter([3.0, 7.0, 1.0, 2.0])
    monkeypatch.setattr(sweep, "evaluator", lambda *_: lambda state: {"psnr": next(rising)})
    sweep.run(config, tmp_path)
    rows = read_json(tmp_path / "results.json", None)
    assert [row["value"] for row in rows] == [3.0, None]  # halfway from step 2 to 4; never
    assert [row["batch_size"] for row in rows] == [8, 16] and rows[0]["target_psnr"] == 5.0


@pytest.mark.parametrize(
    ("found", "metric", "target", "steps"),
    [
        ([(10, 16.0), (20, 18.0)], "psnr", 15.0, 10.0),
        ([(10, 12.0), (25, 15.0)], "psnr", 13.0, 15.0),
        ([(10, 0.5), (20, 0.3)], "lpips", 0.4, 15.0),
        ([(10, 0.5)], "lpips", 0.4, math.nan),
    ],
)
def test_steps_are_interpolated(found, metric, target, steps):
    metrics = [(step, {metric: value}) for step, value in found]
    assert sweep.steps_to(metrics, metric, target) == pytest.approx(steps, nan_ok=True)
