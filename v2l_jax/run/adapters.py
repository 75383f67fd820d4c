"""Adapters of the language model that the finetune job leaves in a run's folder."""

import json
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.llm.connector import load_connector
from v2l_jax.llm.lora import Adapters, Lora
from v2l_jax.llm.peft_files import CONFIG_FILE, load_adapters, load_new_rows
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json

_MAY_DIFFER = ("log_every", "eval_every", "eval_images", "checkpoint_every", "merged")
OF_LOCAL_WORDS = ("restoration",)  # tasks that no representation writes
_TEXTS = {
    "classification": ("question", "tokens", "class_names"),
    "detection": ("shown", "question", "tokens", "bins", "objects", "noise"),
    "vqa": ("sets", "tokens", "shown_questions", "coco_qa", "easy_vqa", "vqa_v2"),
}
"""Options of a task, `config.evaluate.<task>.*`, that the texts to learn from depend on."""

_EARLIER = {
    "task": "restoration",
    "rows_learning_rate": 2e-3,
    "rank_stabilised": False,
    "together": 1,
    "ema": 0.0,
}  # settings that runs of earlier versions did not write


def folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where fine-tuning keeps its checkpoints, metrics and adapters."""
    return workdir / "finetune"


def adapters_folder(workdir: pathlib.Path) -> pathlib.Path:
    """The adapters, in the layout of Hugging Face PEFT."""
    return folder(workdir) / "adapters"


def lora(config: ConfigDict) -> Lora:
    """What `config.finetune` sets of LoRA."""
    c = config.finetune
    return Lora(c.rank, float(c.alpha), tuple(c.targets), c.rank_stabilised)


def are_there(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether adapters of these settings are there."""
    written = (adapters_folder(workdir) / CONFIG_FILE).exists()
    return written and _noted(workdir) is not None and not _differing(config, workdir)


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


def trained_rows(run: Run) -> Float[np.ndarray, "rows hidden"] | None:
    """The new rows of the embedding that the finetune job left beside the adapters, if any."""
    return load_new_rows(adapters_folder(run.workdir), run.llm.model.config)


def connector_path(workdir: pathlib.Path) -> pathlib.Path:
    """The network between image features and the language model, beside the adapters."""
    return adapters_folder(workdir) / "connector.safetensors"


def trained_connector(run: Run) -> dict[str, Any]:
    """What the finetune job left of that network.

    Raises:
      CheckpointError: it left none yet.
      ConfigError: it is of other settings.
    """
    _check_same(run.config, run.workdir)
    return dict(load_connector(connector_path(run.workdir)))


def connector_of(run: Run) -> dict[str, Any]:
    """What the finetune job left of that network; nothing where there is none."""
    return trained_connector(run) if connector_path(run.workdir).exists() else {}


def settings(config: ConfigDict) -> dict[str, Any]:
    """What the adapters depend on, as JSON gives it back."""
    chosen = json.loads(config.finetune.to_json_best_effort())
    known = {"llm": config.llm, "seed": config.seed} | {
        key: value for key, value in chosen.items() if key not in _MAY_DIFFER
    }
    if config.finetune.task in OF_LOCAL_WORDS:
        return known
    kind, task = config.representation.kind, config.finetune.task
    written = json.loads(config.representation.get(kind, ConfigDict()).to_json_best_effort())
    options = json.loads(config.evaluate.get(task, ConfigDict()).to_json_best_effort())
    texts = {name: options[name] for name in _TEXTS.get(task, ()) if name in options}
    known |= {"representation": {"kind": kind} | written, "data": config.data.name}
    return known | {"texts": texts}


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
    if differing := _differing(config, workdir):
        raise ConfigError(
            f"{folder(workdir)} holds adapters of other settings (differs at "
            f"{', '.join(differing[:5])}); delete that folder, or name another --workdir"
        )


def _differing(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """The settings that are others than those noted in the folder, if it notes any."""
    asked, there = settings(config), _noted(workdir)
    if there is None:
        return []
    if "texts" not in there:  # folders of earlier versions do not say
        asked.pop("texts", None)
    return sorted(k for k in asked.keys() | there.keys() if asked.get(k) != there.get(k))
