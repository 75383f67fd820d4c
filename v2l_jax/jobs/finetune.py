"""The language model learns a task from the task's own texts, through LoRA adapters and, where the
representation has words of its own, new rows of the embedding.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.buckets import CHECKPOINTS
from v2l_jax.errors import ConfigError
from v2l_jax.formats.text_files import read_json
from v2l_jax.llm.adapter_step import (
    CONNECTOR,
    NEW_ROWS,
    adapter_loss,
    adapter_optimizer,
    eval_adapters,
    initial_state,
    make_adapter_step,
)
from v2l_jax.llm.connector import save_connector
from v2l_jax.llm.lora import PROJECTIONS, Lora
from v2l_jax.llm.merged import write_merged
from v2l_jax.llm.peft_files import save_adapters
from v2l_jax.llm.training_texts import AnswerTexts, TextBatches, TrainingTexts
from v2l_jax.options import COUNT, FLAG, NAME, POSITIVE, WEIGHT, Rule, each, number, one_of, option
from v2l_jax.parallel.mesh import local_rows, replicate, shard_batch
from v2l_jax.representations import representation
from v2l_jax.run import adapters, loading
from v2l_jax.run.run import Run
from v2l_jax.tasks import tasks
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog

_BETWEEN = Rule("a number between 0 and 1", lambda v: isinstance(v, float) and 0 < v < 1)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of fine-tuning."""

    task: str = option("restoration", "whose texts are learnt", NAME)
    masked: float = option(
        0.3, "share of an image's local words that is hidden, as in the paper", _BETWEEN
    )
    mask_text: str = option("_", "what stands for a hidden word; one token", NAME)
    rank: int = option(4, "LoRA's rank; rank, alpha and targets are the paper's", POSITIVE)
    alpha: float = option(32, "LoRA's alpha", number(0))
    rank_stabilised: bool = option(
        False, "scale LoRA by alpha over the root of the rank (rsLoRA), not over the rank", FLAG
    )
    targets: tuple[str, ...] = option(
        ("q_proj", "k_proj"), "projections with adapters", each(one_of(*PROJECTIONS), least=1)
    )
    steps: int = option(120, "training steps", POSITIVE)
    batch_size: int = option(4, "images a step", POSITIVE)
    together: int = option(
        1,
        "texts of an image that are learnt in one step, drawn where it has more; what they begin "
        "with, such as the image's words, is read once for all",
        POSITIVE,
    )
    learning_rate: float = option(4e-3, "peak learning rate", number(0, 1))
    rows_learning_rate: float = option(
        2e-3, "peak learning rate of new rows of the embedding, and of a connector", number(0, 1)
    )
    warmup_steps: int = option(10, "steps of linear warm-up", COUNT)
    weight_decay: float = option(0.0, "AdamW's", WEIGHT)
    clip_norm: float = option(1.0, "largest gradient norm; 0 = none", WEIGHT)
    ema: float = option(
        0.0,
        "decay of a moving average of what trains, which is evaluated and saved; 0 = none",
        number(0, 1),
    )
    log_every: int = option(
        5, "steps between rows of metrics.jsonl", POSITIVE, changes_results=False
    )
    eval_every: int = option(20, "steps between evaluations", POSITIVE, changes_results=False)
    eval_images: int = option(
        16, "held-out images of the loss that is logged", POSITIVE, changes_results=False
    )
    checkpoint_every: int = option(20, "steps between checkpoints", POSITIVE, changes_results=False)
    merged: bool = option(
        False,
        "also write the tuned model as a plain Hugging Face checkpoint, new words as tokens",
        FLAG,
        changes_results=False,
    )


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether adapters of these settings are there, and the merged model where it is asked for."""
    whole = not config.finetune.merged or (_merged(workdir) / "config.json").exists()
    return whole and adapters.are_there(config, workdir)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains on the task's texts of the training images, from the newest checkpoint; writes
    finetune/: checkpoints/, metrics.jsonl, adapters/, and merged/ where it is asked for.

    Raises:
      ConfigError: the folder holds adapters that were trained with other settings, the task has no
        texts to learn from, or a merged checkpoint is asked for that would need a connector.
    """
    adapters.claim(config, workdir)
    c, context, folder = config.finetune, Run(config, workdir), adapters.folder(workdir)
    texts = training_texts(context)
    llm, mesh, params = context.llm, context.mesh, context.engine.params
    lora = adapters.lora(config)
    key, rows, connector = jax.random.key(config.seed), None, None
    if c.task not in adapters.OF_LOCAL_WORDS:
        written = representation(config)
        rows = written.new_rows(context)
        connector = written.init_adapter(jax.random.fold_in(key, 1), context)
    if c.merged and connector is not None:
        raise ConfigError(
            "a merged checkpoint has no connector, which the representation "
            f"{config.representation.kind!r} needs; set config.finetune.merged=False"
        )
    tx = adapter_optimizer(
        c.learning_rate,
        c.warmup_steps,
        c.steps,
        c.weight_decay,
        c.clip_norm,
        None if rows is None and connector is None else c.rows_learning_rate,
        c.ema,
    )
    state = replicate(initial_state(key, llm.model, lora, tx, rows, connector), mesh)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    logging.info(
        "%s parameters train, %s of them in %d new rows, %s in a connector; the language model is "
        "frozen",
        f"{count(state.adapters):,}",
        f"{0 if rows is None else rows.size:,}",
        0 if rows is None else len(rows),
        f"{0 if connector is None else count(connector):,}",
    )
    with Checkpointer(folder / CHECKPOINTS) as checkpoints:
        state = fit(
            state,
            make_adapter_step(llm.model, lora, tx),
            TextBatches(texts, c.batch_size, config.seed, local_rows(mesh, c.batch_size)),
            params,
            num_steps=c.steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(folder),
            log_every=c.log_every,
            checkpoint_every=c.checkpoint_every,
            eval_every=c.eval_every,
            evaluate=_evaluator(context, params, texts),
            show=("loss",),
            description="training adapters",
        )
    _save(context, dict(eval_adapters(state)), lora)


def _save(context: Run, trained: dict[str, Any], lora: Lora) -> None:
    """Writes what was trained."""
    config, workdir, llm = context.config, context.workdir, context.llm
    new = trained.pop(NEW_ROWS, {}).get("rows")
    between = trained.pop(CONNECTOR, None)
    if between is not None:
        save_connector(adapters.connector_path(workdir), between)
    save_adapters(
        adapters.adapters_folder(workdir),
        trained,
        lora,
        config.llm,
        new,
        llm.model.config.vocab_size,
    )
    if config.finetune.merged:
        source = loading.locate(config.llm) / "config.json"
        write_merged(
            _merged(workdir),
            read_json(source, ConfigError) if source.is_file() else None,
            llm.model.config,
            llm.params,
            lora,
            trained,
            new,
            llm.tokenizer,
            representation(config).row_names(),
        )


def _merged(workdir: pathlib.Path) -> pathlib.Path:
    return adapters.folder(workdir) / "merged"


def training_texts(context: Run) -> TrainingTexts:
    """The texts of `config.finetune.task`, which its module gives as `training_texts(run)`.

    Raises:
      ConfigError: there is no such task, it has none, or no image has several that could be learnt
        together.
    """
    name = context.config.finetune.task
    learnable = [task for task, module in tasks().items() if hasattr(module, "training_texts")]
    if name not in learnable:
        raise ConfigError(
            f"config.finetune.task is {name!r}, but must be one of {', '.join(learnable)}"
        )
    texts, together = tasks()[name].training_texts(context), context.config.finetune.together
    if together == 1:
        return texts
    most = 1
    if isinstance(texts, AnswerTexts):
        most = max(len(group.rests) for group in texts.groups["train"])
    if most < together:
        raise ConfigError(
            f"config.finetune.together is {together}, but an image has at most {most} of the texts "
            f"that {name!r} learns; lower it"
        )
    return dataclasses.replace(texts, together=together)


def _evaluator(
    context: Run, params: Any, texts: TrainingTexts
) -> Callable[[Any], dict[str, float]]:
    """Returns `state -> validation loss`, over the same texts each time."""
    c, model, mesh = context.config.finetune, context.llm.model, context.mesh
    scale, size, available = (
        adapters.lora(context.config).scale,
        c.batch_size,
        texts.count("held_out"),
    )
    count = max(size, min(c.eval_images, available) // size * size)
    batch = texts.texts("held_out", np.arange(count) % available, (context.config.seed, 2))
    rows = local_rows(mesh, size)
    loss = jax.jit(
        lambda params, adapters, batch: adapter_loss(model, params, adapters, scale, batch)
    )

    def evaluate(state: Any) -> dict[str, float]:
        parts = (
            jax.tree.map(lambda x: x[start : start + size][rows], batch)
            for start in range(0, count, size)
        )
        losses = [loss(params, eval_adapters(state), shard_batch(part, mesh)) for part in parts]
        return {"loss": float(np.mean(losses))}

    return evaluate
