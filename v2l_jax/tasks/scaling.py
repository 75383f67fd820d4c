"""How many steps the local tokenizer needs to one and the same quality at each batch size: the
critical batch size.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.errors import ConfigError
from v2l_jax.jobs import train
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.options import POSITIVE, each, number, option
from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.progress import progress_bar
from v2l_jax.report.data import TaskSection
from v2l_jax.run import building
from v2l_jax.run.run import Run
from v2l_jax.tasks.scaling_tables import scaling_section

POSITION = 90
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the batch-size study."""

    batch_sizes: tuple[int, ...] = option(
        (256, 512, 1024, 2048, 4096, 8192, 16_384),
        "batch sizes that are trained",
        each(POSITIVE, least=3),
    )
    seeds: int = option(3, "seeds of each", POSITIVE)
    target_psnr: float = option(20.0, "held-out PSNR at which training stops", number(0))
    max_steps: int = option(60_000, "steps after which it gives up", POSITIVE)
    eval_every: int = option(250, "steps between evaluations", POSITIVE)


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """One row a batch size and seed, for this target and these optimizer settings."""
    c = config.train
    common = {
        "target_psnr": config.evaluate.scaling.target_psnr,
        "optimizer": c.optimizer,
        "learning_rate_scaling": c.learning_rate_scaling,
    }
    pairs = [
        (size, seed)
        for size in config.evaluate.scaling.batch_sizes
        for seed in range(config.evaluate.scaling.seeds)
    ]
    return [{"batch_size": size, "seed": seed, **common} for size, seed in pairs]


def check(config: ConfigDict) -> None:
    """Raises ConfigError where a batch does not divide into the config's micro-batches, or several
    processes run the job.
    """
    if jax.process_count() > 1:
        raise ConfigError("the task scaling runs on one host; start it without --distributed")
    for size in config.evaluate.scaling.batch_sizes:
        if size % config.train.micro_batches:
            raise ConfigError(
                f"config.evaluate.scaling.batch_sizes has {size}, no multiple of train.micro_batches"
            )


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Trains from the start at each batch size until held-out PSNR reaches the target; records the
    steps, NaN where it never does.
    """
    for setting in missing:
        steps = _steps_to_target(run, int(setting["batch_size"]), int(setting["seed"]))
        if math.isnan(steps):
            logging.warning(
                "batch %d: the target was not reached in max_steps", setting["batch_size"]
            )
        run.record("scaling", setting, [Result("steps_to_target", steps, 1, None, setting)])


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Steps and images by batch size, with the fitted law."""
    del run
    return scaling_section(results)


def _steps_to_target(run: Run, batch_size: int, seed: int) -> float:
    """Steps until the target, between two evaluations in proportion to PSNR."""
    c = run.config.evaluate.scaling
    config = run.config.copy_and_resolve_references()
    config.seed, config.train.batch_size, config.train.steps, config.train.epochs = (
        seed,
        batch_size,
        c.max_steps,
        0.0,
    )
    words = building.vectors({"local": run.local_words, "global": run.global_words})
    tokenizer = building.tokenizer(config, words)
    splits = train.images(config, run.workdir, tokenizer)
    trainer = building.trainer(config, tokenizer, len(splits["train"]), run.mesh)
    state = trainer.placed_state()
    frozen = trainer.placed_frozen(building.frozen_inputs(tokenizer, words, run.lpips))
    step_fn, loader = trainer.step_function(), trainer.loader(splits["train"])
    evaluate = train.evaluator(config, tokenizer, frozen, splits["held_out"], run.mesh)
    rate = trainer.learning_rate
    before = -np.inf
    for step in progress_bar(
        range(1, c.max_steps + 1), f"batch {batch_size}, rate {rate:.2g}", "step"
    ):
        state, _ = step_fn(state, shard_batch(next(loader), run.mesh), frozen)
        if step % c.eval_every:
            continue
        psnr = evaluate(state)["psnr"]
        if psnr >= c.target_psnr:
            share = (c.target_psnr - before) / (psnr - before) if np.isfinite(before) else 1.0
            return step - c.eval_every * (1.0 - share)
        before = psnr
    return math.nan
