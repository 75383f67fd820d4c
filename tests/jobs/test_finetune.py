"""Fine-tuning as a job, on a tiny language model with SmolLM2's tokenizer: adapters, resuming,
settings, and what is learnt.
"""

import json

import jax
import numpy as np
import pytest

from tests.tiny_restoration import SIZES, get_config, make_workdir
from v2l_jax import experiment
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.jobs import finetune
from v2l_jax.llm.llama_config import config_from_huggingface
from v2l_jax.llm.peft_files import load_adapters
from v2l_jax.llm.training_texts import TextBatches
from v2l_jax.run import adapters as run_adapters
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import write_json
from v2l_jax.training.metric_log import read_metrics


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    return get_config(asset, tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run after the tokenize job, fine-tuned."""
    workdir = make_workdir(config, tmp_path_factory.mktemp("run"))
    assert not finetune.is_done(config, workdir)
    finetune.run(config, workdir)
    return workdir


def test_writes_adapters_in_the_layout_of_peft_and_a_row_for_every_few_steps(config, workdir):
    assert finetune.is_done(config, workdir)
    lora, adapters = load_adapters(
        workdir / "finetune" / "adapters", config_from_huggingface(SIZES)
    )
    assert lora == run_adapters.lora(config)
    assert all(np.any(x) for x in jax.tree.leaves(adapters))
    rows = read_metrics(workdir / "finetune" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 6, 8]
    assert [row["step"] for row in rows if row["split"] == "eval"] == [4, 8]
    assert all(4 < row["loss"] < 20 for row in rows)  # about log 49,152


def test_a_killed_job_goes_on_and_ends_with_the_same_bits(config, workdir, tmp_path, monkeypatch):
    again, next_batch = make_workdir(config, tmp_path), TextBatches.__next__

    def killed(batches):
        if batches.get_state() == 5:
            raise KeyboardInterrupt
        return next_batch(batches)

    with monkeypatch.context() as patch:
        patch.setattr(TextBatches, "__next__", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(config, again)
    assert not finetune.is_done(config, again)
    finetune.run(config, again)
    for name in (
        "adapters/adapter_model.safetensors",
        "adapters/adapter_config.json",
        "metrics.jsonl",
    ):
        assert (again / "finetune" / name).read_bytes() == (
            workdir / "finetune" / name
        ).read_bytes()


def test_adapters_of_other_settings_are_neither_used_nor_overwritten(config, workdir):
    other = config.copy_and_resolve_references()
    other.finetune.rank = 3
    assert not finetune.is_done(other, workdir)
    for use in (
        lambda: finetune.run(other, workdir),
        lambda: run_adapters.trained_adapters(Run(other, workdir)),
    ):
        with pytest.raises(ConfigError, match="adapters of other settings .differs at rank"):
            use()
    logging_more = config.copy_and_resolve_references()
    logging_more.finetune.log_every = 1
    assert finetune.is_done(logging_more, workdir)


def test_adapters_that_are_not_there_are_asked_for(config, tmp_path):
    with pytest.raises(CheckpointError, match="run the finetune job first"):
        run_adapters.trained_adapters(Run(config, tmp_path))


@pytest.mark.parametrize(
    "key, value",
    [("rank", 0), ("targets", ("q",)), ("masked", 1.0), ("masked", 0.0), ("learning_rate", -1.0)],
)
def test_a_bad_setting_is_named_before_anything_runs(config, key, value):
    bad = config.copy_and_resolve_references()
    bad.finetune[key] = value
    with pytest.raises(ConfigError, match=f"config.finetune.{key} is "):
        experiment.check(bad)


def test_settings_say_what_the_adapters_depend_on(config, workdir):
    settings = json.loads((workdir / "finetune" / "settings.json").read_text())
    assert settings["llm"] == config.llm and settings["rank"] == 2 and "log_every" not in settings


def test_settings_of_earlier_versions_named_no_task(config, workdir, tmp_path):
    settings = run_adapters.settings(config)
    del settings["task"]
    write_json(tmp_path / "finetune" / "settings.json", settings)
    run_adapters.claim(config, tmp_path)
    other = config.copy_and_resolve_references()
    other.finetune.task = "vqa"
    with pytest.raises(ConfigError, match=r"differs at .*\btask\b"):
        run_adapters.claim(other, tmp_path)


def test_a_task_without_texts_to_learn_is_refused(config, tmp_path):
    other = config.copy_and_resolve_references()
    other.finetune.task = "reconstruction"
    with pytest.raises(
        ConfigError, match="must be one of classification, detection, vqa, restoration"
    ):
        finetune.run(other, tmp_path)
