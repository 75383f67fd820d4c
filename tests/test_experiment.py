"""Options stand once, and any can be overridden; configs are checked whole, and errors name the
key, what it holds, and what it may.
"""

import pathlib
import runpy
import subprocess
import sys

import pytest

from v2l_jax import experiment, options
from v2l_jax.errors import ConfigError

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(name: str):
    path = next(p for p in CONFIGS if p.stem == name)
    return runpy.run_path(str(path))["get_config"]()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_valid(path):
    experiment.check(runpy.run_path(str(path))["get_config"]())


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
            r"config.profile is \(3, 2\), but must be \(\) or two steps first, last with 1 <= "
            r"first <= last",
        ),
        (
            "llm_options.dtype",
            "float8",
            r"config.llm_options.dtype is 'float8', but must be one of 'float32', 'tf32', "
            r"'bfloat16', 'auto'",
        ),
        (
            "jobs",
            ("trian",),
            r"config.jobs is \('trian',\), but must be a tuple \(at least 1\), each one of "
            r"'codebook'",
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
        ("data.labelled", (), r"config.data.labelled must name at least one folder"),
    ],
)
def test_bad_values_are_named(key, value, message):
    config = load("quickstart")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        experiment.check(config)


def test_an_unknown_key_names_the_nearest():
    config = load("quickstart")
    config.train.learning_rat = 1.0
    with pytest.raises(
        ConfigError,
        match=r"unknown key config.train.learning_rat; did you mean config.train.learning_rate\?",
    ):
        experiment.check(config)


def test_a_missing_key_is_named():
    config = load("quickstart")
    del config.model.channels
    with pytest.raises(ConfigError, match=r"lacks config.model.channels"):
        experiment.check(config)


@pytest.mark.parametrize(
    ("flags", "key", "expected"),
    [
        (["--config.jobs=evaluate,report"], "jobs", ("evaluate", "report")),
        (["--config.jobs=('evaluate',)"], "jobs", ("evaluate",)),
        (["--config.jobs", "report"], "jobs", ("report",)),
        (["--config.evaluate.few_shot.shots=1,3"], "evaluate.few_shot.shots", (1, 3)),
        (["--config.evaluate.few_shot.tokens=5,21"], "evaluate.few_shot.tokens", (5, 21)),
        (["--config.evaluate.few_shot.tokens=21"], "evaluate.few_shot.tokens", 21),
        (["--config.codebook.templates=imagenet"], "codebook.templates", "imagenet"),
        (["--config.data.unlabelled="], "data.unlabelled", ()),
        (["--config.data.short_side=64"], "data.short_side", 64),
        (["--config.profile=21,23"], "profile", (21, 23)),
        (["--config.train.flip=false"], "train.flip", False),
        (["--noconfig.train.flip"], "train.flip", False),
        (["--config.data.antialias"], "data.antialias", True),
        (["--config.train.hang_minutes=3"], "train.hang_minutes", 3.0),
        (["--config.train.learning_rate=1e-3"], "train.learning_rate", 1e-3),
        (["--config.llm=7"], "llm", "7"),
        (["--config.tower=clip:~/clip"], "tower", f"clip:{pathlib.Path.home()}/clip"),
        (
            ["--config.data.labelled=~/a,~/b"],
            "data.labelled",
            tuple(f"{pathlib.Path.home()}/{x}" for x in "ab"),
        ),
    ],
)
def test_any_option_is_overridden_from_the_command_line(flags, key, expected):
    rest, overrides = experiment.split_overrides(["main", *flags, "--workdir=x"])
    assert rest == ["main", "--workdir=x"]
    config = experiment.load(next(p for p in CONFIGS if p.stem == "quickstart"), overrides)
    value = dict(options.flatten(config, experiment.known()))[key]
    assert value == expected and type(value) is type(expected)
    experiment.check(config)


def test_an_entry_of_a_dictionary_is_overridden_alone():
    config = experiment.load(CONFIGS[0], [("data.rename_classes.pizza", "flatbread")])
    assert config.data.rename_classes.to_dict() == {
        "cats": "cat",
        "dogs": "dog",
        "pizza": "flatbread",
    }


def test_an_override_of_nothing_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean config.evaluate.few_shot.episodes\?"):
        experiment.load(CONFIGS[0], [("evaluate.few_shot.episode", "3")])
    with pytest.raises(ConfigError, match=r"config.train.steps is 'many', but must be an integer"):
        experiment.load(CONFIGS[0], [("train.steps", "many")])


def test_a_config_is_read_by_its_absolute_path_from_any_folder(tmp_path):
    path = next(p for p in CONFIGS if p.stem == "few_shot").resolve()
    script = f"from v2l_jax import experiment; print(experiment.load({str(path)!r}).evaluate.tasks)"
    here = {"PYTHONPATH": "", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    program = (
        f"import sys; sys.path.insert(0, {str(path.parents[1])!r}); import v2l_jax; "
        f"sys.path.pop(0); {script}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=here, capture_output=True, text=True
    )
    assert done.stdout.strip() == "('few_shot',)", done.stderr


def test_small_configs_hold_only_what_differs():
    for name in ("imagenet", "quickstart", "v2l_mini"):
        assert len(next(p for p in CONFIGS if p.stem == name).read_text().splitlines()) <= 40


def test_help_says_every_option_once():
    text = options.describe(experiment.known())
    for path, one in experiment.known().items():
        assert (
            text.count(f"--config.{path}=") == 1 and one.meaning and one.rule.allows(one.default)
        ), path


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "broken.py, line 1: .*; a config file is Python"),
        ("import no_such_module", "broken.py, line 1 fails: ModuleNotFoundError: .*no_such_module"),
        ("def get_config():\n    return 1 / 0", "broken.py, line 2 fails: ZeroDivisionError"),
        ("def get_config():\n    return {}", "returns a dict, but must return a ConfigDict"),
        ("x = 1", "has no function get_config"),
        ("\0", "broken.py"),
    ],
)
def test_a_config_file_that_fails_is_one_line(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        experiment.load(tmp_path / "broken.py")
    assert "\n" not in str(caught.value)
