"""The flag --config of every program here, and the overrides --config.path.to.key=value beside
it.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from v2l_jax import experiment

_overrides: list[tuple[str, str]] = []


def define_config(default: str | None = None) -> None:
    """Defines --config; `default` is the file that is read where the flag is missing."""
    meaning = (
        "Experiment file, such as configs/quickstart.py; --config.path.to.key=value overrides."
    )
    flags.DEFINE_string("config", default, meaning)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """For `app.run(flags_parser=…)`: keeps the overrides and parses the rest; a bad flag ends the
    program with one line.
    """
    rest, _overrides[:] = experiment.split_overrides(argv)
    try:
        return flags.FLAGS(rest)
    except flags.Error as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def load_config() -> ConfigDict:
    """The config of --config with the command line's overrides.

    Raises:
      ConfigError: there is no such file, or an override names no option or cannot be read.
    """
    return experiment.load(flags.FLAGS.config, _overrides)


def overrides() -> list[str]:
    """The command line's overrides as it gave them, for a program that this one starts."""
    return [f"--config.{path}={value}" for path, value in _overrides]
