"""The language model learns, through LoRA adapters alone, to fill in hidden local words of
pictures.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.llm.adapter_step import (
    adapter_loss,
    adapter_optimizer,
    initial_state,
    make_adapter_step,
)
from v2l_jax.llm.lora import PROJECTIONS, Adapters, Lora
from v2l_jax.llm.peft_files import CONFIG_FILE, load_adapters, save_adapters
from v2l_jax.options import COUNT, NAME, POSITIVE, WEIGHT, Rule, each, number, one_of, option
from v2l_jax.parallel.mesh import local_rows, replicate, shard_batch
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.restoration_prompts import MaskedImages, RestorationPrompt, draw_masks
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog

_BETWEEN = Rule("a number between 0 and 1", lambda v: isinstance(v, float) and 0 < v < 1)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of fine-tuning."""

    masked: float = option(
        0.3, "share of an image's local words that is hidden, as in the paper", _BETWEEN
    )
    mask_text: str = option("_", "what stands for a hidden word; one token", NAME)
    rank: int = option(4, "LoRA's rank; rank, alpha and targets are the paper's", POSITIVE)
    alpha: float = option(32, "LoRA's alpha", number(0))
    targets: tuple[str, ...] = option(
        ("q_proj", "k_proj"), "projections with adapters", each(one_of(*PROJECTIONS), least=1)
    )
    steps: int = option(120, "training steps", POSITIVE)
    batch_size: int = option(4, "images a step", POSITIVE)
    learning_rate: float = option(4e-3, "peak learning rate", number(0, 1))
    warmup_steps: int = option(10, "steps of linear warm-up", COUNT)
    weight_decay: float = option(0.0, "AdamW's", WEIGHT)
    clip_norm: float = option(1.0, "largest gradient norm; 0 = none", WEIGHT)
    log_every: int = option(
        5, "steps between rows of metrics.jsonl", POSITIVE, changes_results=False
    )
    eval_every: int = option(20, "steps between evaluations", POSITIVE, changes_results=False)
    eval_images: int = option(
        16, "held-out images of the loss that is logged", POSITIVE, changes_results=False
    )
    checkpoint_every: int = option(20, "steps between checkpoints", POSITIVE, changes_results=False)


_MAY_DIFFER = ("log_every", "eval_every", "eval_images", "checkpoint_every")


def folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where fine-tuning keeps its checkpoints, metrics and adapters."""
    return workdir / "finetune"


def adapters_folder(workdir: pathlib.Path) -> pathlib.Path:
    """The adapters, in the layout of Hugging Face PEFT."""
    return folder(workdir) / "adapters"


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether adapters of these settings are there."""
    return (adapters_folder(workdir) / CONFIG_FILE).exists() and _settings(config) == read_json(
        folder(workdir) / "settings.json", None
    )


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains on the words of the training photos, from the newest checkpoint; writes finetune/:
    checkpoints/, metrics.jsonl, adapters/.

    Raises:
      ConfigError: the folder holds adapters that were trained with other settings.
    """
    _claim(config, workdir)
    c, context = config.finetune, Run(config, workdir)
    llm, mesh, params = context.llm, context.mesh, context.engine.params
    ids, held_out = (_flat(context.tokens(split)["local"]) for split in ("train", "held_out"))
    task = prompt(context)
    task.check_length(ids.shape[1], llm.model.config.context_length)
    settings, tx = (
        lora(config),
        adapter_optimizer(c.learning_rate, c.warmup_steps, c.steps, c.weight_decay, c.clip_norm),
    )
    state = replicate(initial_state(jax.random.key(config.seed), llm.model, settings, tx), mesh)
    logging.info(
        "%s adapter parameters train; the language model is frozen",
        f"{sum(x.size for x in jax.tree.leaves(state.adapters)):,}",
    )
    batches = MaskedImages(
        task, ids, c.masked, c.batch_size, config.seed, local_rows(mesh, c.batch_size)
    )
    with Checkpointer(folder(workdir) / "checkpoints") as checkpoints:
        state = fit(
            state,
            make_adapter_step(llm.model, settings, tx),
            batches,
            params,
            num_steps=c.steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(folder(workdir)),
            log_every=c.log_every,
            checkpoint_every=c.checkpoint_every,
            eval_every=c.eval_every,
            evaluate=_evaluator(context, params, task, held_out),
            show=("loss",),
            description="training adapters",
        )
    save_adapters(adapters_folder(workdir), state.adapters, settings, config.llm)


def lora(config: ConfigDict) -> Lora:
    """Rank, alpha and targets of `config.finetune`."""
    c = config.finetune
    return Lora(c.rank, float(c.alpha), tuple(c.targets))


def prompt(context: Run) -> RestorationPrompt:
    """How the task is written in the run's language model."""
    return RestorationPrompt.build(
        context.llm.tokenizer, context.local_words, context.config.finetune.mask_text
    )


def trained_adapters(context: Run) -> Adapters:
    """What `run` left.

    Raises:
      CheckpointError: it left nothing yet.
      ConfigError: it left adapters of other settings.
    """
    there = adapters_folder(context.workdir)
    if not (there / CONFIG_FILE).exists():
        raise CheckpointError(
            f"no adapters in {there}; run the finetune job first: --config.jobs=\"('finetune',)\""
        )
    _check_same(context.config, context.workdir)
    return load_adapters(there, context.llm.model.config)[1]


def _evaluator(
    context: Run, params: Any, task: RestorationPrompt, held_out: Int[np.ndarray, "images n"]
) -> Callable[[Any], dict[str, float]]:
    """Returns `state -> held-out loss`, over the same photos and masks each time."""
    c, model, mesh = context.config.finetune, context.llm.model, context.mesh
    scale, size = lora(context.config).scale, c.batch_size
    count = max(size, min(c.eval_images, len(held_out)) // size * size)
    images = np.arange(count) % len(held_out)
    texts = task.texts(
        held_out[images], draw_masks(count, held_out.shape[1], c.masked, (context.config.seed, 2))
    )
    rows = local_rows(mesh, size)
    loss = jax.jit(
        lambda params, adapters, batch: adapter_loss(model, params, adapters, scale, batch)
    )

    def evaluate(state: Any) -> dict[str, float]:
        batches = (
            jax.tree.map(lambda x: x[start : start + size][rows], texts)
            for start in range(0, count, size)
        )
        return {
            "loss": float(
                np.mean(
                    [loss(params, state.adapters, shard_batch(batch, mesh)) for batch in batches]
                )
            )
        }

    return evaluate


def _flat(ids: Int[np.ndarray, "images h w"]) -> Int[np.ndarray, "images n"]:
    return ids.reshape(len(ids), -1)


def _settings(config: ConfigDict) -> dict[str, Any]:
    """What the adapters depend on, as JSON gives it back."""
    chosen = json.loads(config.finetune.to_json_best_effort())
    return {"llm": config.llm, "seed": config.seed} | {
        key: value for key, value in chosen.items() if key not in _MAY_DIFFER
    }


def _claim(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Notes the settings beside the checkpoints, or compares with those that are there."""
    _check_same(config, workdir)
    folder(workdir).mkdir(parents=True, exist_ok=True)
    write_json(folder(workdir) / "settings.json", _settings(config))


def _check_same(config: ConfigDict, workdir: pathlib.Path) -> None:
    asked = _settings(config)
    there = read_json(folder(workdir) / "settings.json", asked)
    differing = sorted(
        key for key in asked.keys() | there.keys() if asked.get(key) != there.get(key)
    )
    if differing:
        raise ConfigError(
            f"{folder(workdir)} holds adapters of other settings (differs at {', '.join(differing[:5])}); "
            "delete that folder, or name another --workdir"
        )
