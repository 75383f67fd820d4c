"""Every training and evaluation command of docs/reproduce.md names a config and options that
there are.
"""

import pathlib
import re
import shlex

import pytest

from v2l_jax import experiment

ROOT = pathlib.Path(__file__).parents[1]


def commands(page):
    """The arguments of each `python -m v2l_jax.main` in a page's shell blocks, variables put in."""
    found, known = [], {}
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if len(words) == 1 and re.match(r"[A-Z]=", words[0]):
                known["$" + words[0][0]] = shlex.split(words[0][2:])
                continue
            words = [part for word in words for part in known.get(word, [word])]
            if words[:3] == ["python", "-m", "v2l_jax.main"]:
                found.append(words[3:])
    return found


COMMANDS = commands(ROOT / "docs" / "reproduce.md")


def test_all_tables_and_baselines_are_among_them():
    text = " ".join(word for command in COMMANDS for word in command)
    assert len(COMMANDS) == 13
    for config in (ROOT / "configs" / "v2l").glob("*.py"):
        assert f"configs/v2l/{config.name}" in text, config


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_command_can_be_read(command):
    rest, overrides = experiment.split_overrides(command)
    flags = dict(word.removeprefix("--").split("=", 1) for word in rest)
    experiment.check(experiment.load(ROOT / flags["config"], overrides))
    assert flags["workdir"].startswith("/data/")
