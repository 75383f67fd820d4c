"""An experiment's config: its options found, a file and a command line read, all of it checked.

`sections` holds the options that everything shares; a file in `configs/` holds only what differs
from their defaults. Tasks, tokenizers, representations and some jobs declare their own options in
their own files, as a dataclass `Options`; they appear here as `evaluate.<task>`, `model.<kind>`,
`representation.<kind>`, `finetune` and so on.
"""

import functools
import importlib
import os
import pathlib
import pkgutil
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from v2l_jax import options
from v2l_jax.errors import ConfigError
from v2l_jax.sections import SECTIONS
from v2l_jax.tokenizers.base import kind_module

_ROOMS = {
    "representation.": "representations", "evaluate.": "tasks", "model.": "tokenizers",
    "model.quantizers.": "tokenizers.quantizers", "": "jobs",
}  # fmt: skip
_WORDS = "representation.v2l_words."
_RENAMED = {
    "evaluate.few_shot.single_words": f"{_WORDS}single_words",
    "evaluate.few_shot.selection": f"{_WORDS}selection",
    "evaluate.few_shot.mmr": f"{_WORDS}mmr",
    "evaluate.few_shot.adaptive": f"{_WORDS}adaptive",
    "evaluate.captioning.vocabulary": f"{_WORDS}vocabulary",
}
"""Where options of earlier versions went."""


@functools.cache
def sections() -> dict[str, type]:
    """The dataclass of options at each dotted path: `SECTIONS`, and one for each file of
    `v2l_jax/representations`, `tasks`, `tokenizers` and `jobs` that declares a class `Options`, and
    classes inside it.
    """
    found = dict(SECTIONS)
    for prefix, room in _ROOMS.items():
        package = importlib.import_module(f"v2l_jax.{room}")
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            declared = getattr(importlib.import_module(f"v2l_jax.{room}.{module}"), "Options", None)
            if declared is not None:
                found[f"{prefix}{module}"] = declared
                inner = (v for v in vars(declared).values() if isinstance(v, type))
                found |= {f"{prefix}{module}.{_snake(i.__name__)}": i for i in inner}
    return found


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


@functools.cache
def known() -> dict[str, options.Option]:
    """Every option by its dotted path."""
    return options.options_of(sections())


def default() -> ConfigDict:
    """A config that holds every option's default; a config file changes what differs."""
    config = ConfigDict(type_safe=False)
    for path, one in known().items():
        _set(
            config,
            path,
            ConfigDict(one.default) if isinstance(one.default, Mapping) else one.default,
        )
    return config


def load(path: str | os.PathLike, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """The config of a file, with a command line's overrides.

    Args:
      path: of a Python file with `get_config`; "file.py:text" passes a text to it. The file may
        import its neighbours (`from configs import quickstart`) from whatever folder it is run.
      overrides: pairs of a dotted path and the text of its value.

    Returns:
      The whole config: options that the file does not name have their defaults, and "~" is
      expanded.

    Raises:
      ConfigError: there is no such file, or an override names no option or cannot be read.
    """
    text, _, argument = str(path).partition(":")
    file = pathlib.Path(text).expanduser()
    if not os.path.isfile(file):
        raise ConfigError(f"there is no config file {file}; see the folder configs")
    for parent in file.resolve().parents:
        if parent.name == "configs" and str(parent.parent) not in sys.path:
            sys.path.insert(0, str(parent.parent))
    config = complete(_run(file, argument))
    for dotted, value in overrides:
        option_path = _known_path(dotted)
        one = known()[option_path]
        _set(config, dotted, value if dotted != option_path else options.parse(value, one))
    for dotted, value in list(options.flatten(config, known())):
        _set(config, dotted, _expand_home(value))
    return config


def _run(file: pathlib.Path, argument: str) -> ConfigDict:
    """What `get_config` of a config file returns.

    Raises:
      ConfigError: the file is no Python, has no such function, or fails; the line is named.
    """
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        if get_config is None:
            raise ConfigError(f"{file} has no function get_config")
        config = get_config(argument) if argument else get_config()
    except ConfigError:
        raise
    except SyntaxError as error:
        where = f"{error.filename or file}, line {error.lineno}"
        raise ConfigError(f"{where}: {error.msg}; a config file is Python") from error
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        where = f"{file}, line {lines[-1]}" if lines else str(file)
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{where} fails: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{file}: get_config returns a {type(config).__name__}, but must return a ConfigDict, "
            "such as experiment.default() with changes"
        )
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """A config with every option: what it does not name has its default; unknown keys stay."""
    whole = default()
    for path, value in options.flatten(config, known()):
        _set(whole, path, ConfigDict(value) if isinstance(value, Mapping) else value)
    return whole


def _set(config: ConfigDict, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in config:
            config[parent] = ConfigDict(type_safe=False)
        config = config[parent]
    config[name] = ConfigDict(value) if isinstance(value, Mapping) else value


def _expand_home(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_expand_home, value))
    if isinstance(value, str) and (value.startswith("~") or ":~" in value):
        kind, mark, path = value.rpartition(":")
        return kind + mark + os.path.expanduser(path)
    return value


def _known_path(path: str) -> str:
    """As `options.known_path`; an option of earlier versions is told where it went."""
    if path in _RENAMED and path not in known():
        raise ConfigError(f"config.{path} is now config.{_RENAMED[path]}")
    return options.known_path(path, known())


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.a.b=value`, `--config.a.b value`, `--config.a.flag` and
    `--noconfig.a.flag` out of a command line; returns the rest, and the pairs of dotted
    path and text.
    """
    rest, pairs, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        body = word.lstrip("-")
        if not word.startswith("-") or not body.startswith(("config.", "noconfig.")):
            rest.append(word)
            continue
        name, given, value = body.partition("=")
        if name.startswith("noconfig."):
            name, value, given = name[2:], "False", "="
        if not given:
            one = known().get(name.removeprefix("config."))
            flag = one is not None and isinstance(one.default, bool)
            value = "True" if flag or not words else words.pop(0)
        pairs.append((name.removeprefix("config."), value))
    return rest, pairs


def check(config: ConfigDict) -> None:
    """Checks a config whole, before anything runs.

    Raises:
      ConfigError: in one line, the first key that is unknown, missing, or holds what it cannot.
    """
    values = dict(options.flatten(config, known()))
    for path, value in values.items():
        one = known()[_known_path(path)]
        if not one.rule.allows(value):
            raise ConfigError(f"config.{path} is {value!r}, but must be {one.rule.wants}")
    missing = [path for path in known() if path not in values]
    if missing:
        raise ConfigError(f"the config lacks {', '.join('config.' + key for key in missing[:5])}")
    _check_together(config)


AS_PUBLISHED = {
    "codebook.word_initial": False,
    "codebook.ngrams": 3,
    "codebook.templates": "imagenet",
    "codebook.merge_spellings": False,
    "representation.kind": "v2l_words",
    "representation.v2l_words.vocabulary": "global",
    "representation.v2l_words.single_words": False,
    "representation.v2l_words.selection": "nearest",
    "representation.v2l_words.adaptive": 0.0,
    "evaluate.few_shot.rule": "greedy",
    "evaluate.few_shot.calibrate": False,
    "evaluate.few_shot.ordering": "random",
    "evaluate.denoising.counted_globals": 21,
}
"""What `published` needs other options to be."""


def _check_published(config: ConfigDict) -> None:
    for path, wanted in AS_PUBLISHED.items():
        value: Any = config
        for name in path.split("."):
            value = value[name]
        if value != wanted and value != (wanted,):
            raise ConfigError(
                f"config.published is True, so config.{path} must be {wanted!r}, but it is "
                f"{value!r}"
            )


def _check_together(config: ConfigDict) -> None:
    if config.published:
        _check_published(config)
    tasks, representations = (
        [key.split(".")[1] for key in sections() if key.startswith(prefix)]
        for prefix in ("evaluate.", "representation.")
    )
    if config.representation.kind not in representations:
        raise ConfigError(
            f"config.representation.kind is {config.representation.kind!r}, but must be one of "
            f"{', '.join(representations)}"
        )
    for task in config.evaluate.tasks:
        if task not in tasks:
            raise ConfigError(
                f"config.evaluate.tasks has {task!r}, but must be of {', '.join(tasks)}"
            )
    check_kind = getattr(kind_module(config.model.kind), "check", None)
    if check_kind:
        check_kind(config.model)
    levels = len(config.model.channel_multipliers)
    if config.model.image_size % 2 ** (levels - 1):
        raise ConfigError(
            f"config.model.image_size is {config.model.image_size}, but must be a multiple of "
            f"{2 ** (levels - 1)}: {levels} channel_multipliers halve it {levels - 1} times"
        )
    if config.data.kind == "folders" and not config.data.labelled:
        raise ConfigError(
            "config.data.kind is 'folders', so config.data.labelled must name at least one folder"
        )
    if config.train.batch_size % config.train.micro_batches:
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of "
            f"config.train.micro_batches, {config.train.micro_batches}"
        )
    if bool(config.train.steps) == bool(config.train.epochs):
        raise ConfigError(
            "set one of config.train.steps and config.train.epochs, and leave the other 0"
        )
