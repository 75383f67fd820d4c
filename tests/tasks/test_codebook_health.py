"""The ablation of codebook remedies, on a tiny run over noise."""

import pytest
from ml_collections import ConfigDict

from tests import synthetic_config
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import read_results
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks import codebook_health
from v2l_jax.training.metric_log import read_metrics


@pytest.fixture
def config():
    config = synthetic_config.get_config()
    config.train.update(steps=4, disc_start=1, log_every=1, eval_every=2, learning_rate=1e-3)
    config.evaluate.tasks = ("codebook_health",)
    options = {
        "starts": (("published", ()),),
        "remedies": (("none", ()), ("revival", (("projector_revive_every", 2),))),
        "seeds": 2,
    }
    config.evaluate.codebook_health = ConfigDict(options)
    return config


def test_a_row_set_for_each_start_remedy_and_seed(config):
    experiment.check(config)
    codebook_health.check(config)
    rows = codebook_health.settings(config)
    assert [(row["remedy"], row["seed"], row["changes"]) for row in rows] == [
        ("none", 0, ""),
        ("revival", 0, "projector_revive_every=2"),
        ("none", 1, ""),
        ("revival", 1, "projector_revive_every=2"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("projector_revive", 2, "changes train.projector_revive, which is no key"),
        ("disc_start", -1, "config.train.disc_start is -1"),
    ],
)
def test_a_variant_that_cannot_train_is_refused_before_any_does(config, key, value, message):
    config.evaluate.codebook_health.remedies = (("none", ()), ("wrong", ((key, value),)))
    with pytest.raises(ConfigError, match=message):
        codebook_health.check(config)


@pytest.mark.parametrize("value", [(), ("none",), (("none", ("disc_start", 1)),), (("", ()),)])
def test_remedies_have_names_and_pairs(config, value):
    config.evaluate.codebook_health.remedies = value
    with pytest.raises(ConfigError, match="config.evaluate.codebook_health.remedies is"):
        experiment.check(config)


def test_what_is_there_is_not_trained_again(config, tmp_path, monkeypatch):
    """Rows, curves, table and figure; then a killed study goes on with the seeds that are missing,
    to the same numbers.
    """
    workdir = tmp_path / "run"
    config.llm = synthetic_config.fill(workdir)[-1].partition("=")[2]
    run = evaluate.open_run(config, workdir)
    codebook_health.measure(run, codebook_health.settings(config))
    rows = read_json(workdir / "results.json", None)
    assert [row["metric"] for row in rows[:4]] == [
        "codebook_usage",
        "perplexity",
        "dead_words",
        "psnr",
    ] and len(rows) == 16
    last = {(row["remedy"], row["seed"], row["metric"]): row["value"] for row in rows}
    for remedy in ("none", "revival"):
        for seed in (0, 1):
            log = read_metrics(
                run.folder("codebook_health")
                / f"published, {remedy}, seed {seed}"
                / "metrics.jsonl"
            )
            assert log[-1] | {"step": 4, "split": "eval"} == log[-1]
            assert (
                log[-1]["dead_words"]
                == last[remedy, seed, "dead_words"]
                == 50 - 50 * last[remedy, seed, "codebook_usage"]
            )
    assert (run.folder("codebook_health") / "curves.png").stat().st_size > 10_000
    results = read_results(workdir / "results.json")
    assert evaluate.is_done(config, workdir)
    section = codebook_health.section(run, results)
    assert [row[0] for row in section.tables[0].rows] == [
        "published, none",
        "published, revival",
    ] and len(section.figures) == 2

    kept = [row for row in rows if (row["remedy"], row["seed"]) != ("revival", 1)]
    write_json(workdir / "results.json", kept)
    trained, fit = [], codebook_health.fit
    monkeypatch.setattr(
        codebook_health,
        "fit",
        lambda *args, **options: trained.append(options["description"]) or fit(*args, **options),
    )
    evaluate.run(config, workdir)
    assert trained == ["published, revival, seed 1"]
    again = {
        (row["remedy"], row["seed"], row["metric"]): row["value"]
        for row in read_json(workdir / "results.json", None)
    }
    assert again == last
