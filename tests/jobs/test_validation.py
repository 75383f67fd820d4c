"""Configs are checked whole, and errors name the key, what it holds, and what it may."""

import pathlib
import runpy

import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.jobs import validation

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(name: str):
    path = next(p for p in CONFIGS if p.stem == name)
    return runpy.run_path(str(path))["get_config"]()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_valid(path):
    validation.check(runpy.run_path(str(path))["get_config"]())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "train.learning_rate",
            -1.0,
            r"config.train.learning_rate is -1.0, but must be a number from 0 to 1",
        ),
        (
            "train.batch_size",
            0,
            r"config.train.batch_size is 0, but must be an integer of at least 1",
        ),
        (
            "profile",
            (3, 2),
            r"config.profile is \(3, 2\), but must be \(\) or two steps first, last with 1 <= first <= last",
        ),
        (
            "llm_options.dtype",
            "float8",
            r"config.llm_options.dtype is 'float8', but must be one of 'float32', 'bfloat16', 'auto'",
        ),
        (
            "jobs",
            ("trian",),
            r"config.jobs is \('trian',\), but must be a tuple \(at least 1\), each one of 'codebook'",
        ),
        ("codebook.templates", ("a photo",), r"config.codebook.templates"),
        ("train.crop_scale", (0.9, 0.1), r"low <= high"),
        ("model.image_size", 98, r"config.model.image_size is 98, but must be a multiple of 8"),
        ("train.epochs", 3.0, r"one of config.train.steps and config.train.epochs"),
        ("evaluate.few_shot.rule", "loudest", r"config.evaluate.few_shot.rule is 'loudest'"),
        (
            "tower",
            "clip:",
            r"config.tower is 'clip:', but must be 'conse', or 'clip:' and a checkpoint",
        ),
        ("evaluate.tasks", ("captions",), r"config.evaluate.tasks"),
        (
            "evaluate.tasks",
            ("few_shot", "denoising"),
            r"asks for evaluate.denoising but has no options",
        ),
        ("data.labelled", (), r"config.data.labelled must name at least one folder"),
    ],
)
def test_bad_values_are_named(key, value, message):
    config = load("quickstart")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        validation.check(config)


def test_an_unknown_key_names_the_nearest():
    config = load("quickstart")
    config.train.learning_rat = 1.0
    with pytest.raises(
        ConfigError,
        match=r"unknown key config.train.learning_rat; did you mean config.train.learning_rate\?",
    ):
        validation.check(config)


def test_a_missing_key_is_named():
    config = load("quickstart")
    del config.model.channels
    with pytest.raises(ConfigError, match=r"lacks config.model.channels"):
        validation.check(config)
