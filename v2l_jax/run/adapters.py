"""Adapters of the language model that the finetune job leaves in a run's folder."""

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.llm.lora import Adapters, Lora
from v2l_jax.llm.peft_files import CONFIG_FILE, load_adapters
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json

_MAY_DIFFER = ("log_every", "eval_every", "eval_images", "checkpoint_every")
_EARLIER = {"task": "restoration"}  # settings that runs of earlier versions did not write


def folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where fine-tuning keeps its checkpoints, metrics and adapters."""
    return workdir / "finetune"


def adapters_folder(workdir: pathlib.Path) -> pathlib.Path:
    """The adapters, in the layout of Hugging Face PEFT."""
    return folder(workdir) / "adapters"


def lora(config: ConfigDict) -> Lora:
    """Rank, alpha and targets of `config.finetune`."""
    c = config.finetune
    return Lora(c.rank, float(c.alpha), tuple(c.targets))


def are_there(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether adapters of these settings are there."""
    written = (adapters_folder(workdir) / CONFIG_FILE).exists()
    return written and settings(config) == _noted(workdir)


def trained_adapters(run: Run) -> Adapters:
    """What the finetune job left.

    Raises:
      CheckpointError: it left nothing yet.
      ConfigError: it left adapters of other settings.
    """
    there = adapters_folder(run.workdir)
    if not (there / CONFIG_FILE).exists():
        raise CheckpointError(
            f"no adapters in {there}; run the finetune job first: --config.jobs=finetune"
        )
    _check_same(run.config, run.workdir)
    return load_adapters(there, run.llm.model.config)[1]


def settings(config: ConfigDict) -> dict[str, Any]:
    """What the adapters depend on, as JSON gives it back."""
    chosen = json.loads(config.finetune.to_json_best_effort())
    return {"llm": config.llm, "seed": config.seed} | {
        key: value for key, value in chosen.items() if key not in _MAY_DIFFER
    }


def claim(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Notes the settings beside the checkpoints.

    Raises:
      ConfigError: the folder holds adapters that were trained with other settings.
    """
    _check_same(config, workdir)
    folder(workdir).mkdir(parents=True, exist_ok=True)
    write_json(folder(workdir) / "settings.json", settings(config))


def _noted(workdir: pathlib.Path) -> dict[str, Any] | None:
    noted = read_json(folder(workdir) / "settings.json", None)
    return None if noted is None else _EARLIER | noted


def _check_same(config: ConfigDict, workdir: pathlib.Path) -> None:
    asked, there = settings(config), _noted(workdir)
    if there is None:
        return
    keys = asked.keys() | there.keys()
    differing = sorted(key for key in keys if asked.get(key) != there.get(key))
    if differing:
        raise ConfigError(
            f"{folder(workdir)} holds adapters of other settings (differs at "
            f"{', '.join(differing[:5])}); delete that folder, or name another --workdir"
        )
