"""The local tokenizer learns to redraw photos from the LLM's words."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import Subset, WithVectors
from v2l_jax.jobs import codebook
from v2l_jax.metrics.codebook_usage import summarise
from v2l_jax.parallel.mesh import local_rows
from v2l_jax.parallel.processes import barrier, is_primary, sum_over_processes, whole_on_own_devices
from v2l_jax.run import building, features, loading
from v2l_jax.run.reconstruction import score, word_counts
from v2l_jax.run.workdir import write_json
from v2l_jax.tokenizers.v2l import V2LTokenizer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.profiler import StepProfiler
from v2l_jax.training.state import TrainState

EVALUATION_IMAGES = 128
EVERY_PROCESS = True
"""Several processes share this job; see `runner.run_jobs`."""


def _marker(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "training.json"


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether training has ended."""
    del config
    return _marker(workdir).exists()


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to the end, from the newest checkpoint; writes checkpoints/, metrics.jsonl, and
    training.json at the end.
    """
    mesh, photos = loading.shared_mesh(config), loading.photos(config)
    local, global_ = (
        Codebook.load(codebook.local_path(workdir)),
        Codebook.load(codebook.global_path(workdir)),
    )
    for book in (local, global_):
        book.check_made_for(loading.text_tokenizer(config).fingerprint)
    if is_primary():  # the others find the files
        for split, source in (("train", photos.train), ("held_out", photos.held_out)):
            features.cached(config, workdir, split, source)
    barrier("features")
    train = WithVectors(photos.train, features.cached(config, workdir, "train", photos.train))
    held_out = WithVectors(
        photos.held_out, features.cached(config, workdir, "held_out", photos.held_out)
    )
    model = building.tokenizer_for(config, local, global_)
    frozen = building.placed_frozen(config, building.frozen_words(local, global_), mesh)
    loader = make_loader(
        train,
        building.image_transform(config, augment=True),
        config.train.batch_size,
        seed=config.seed,
        rows=local_rows(mesh, config.train.batch_size),
        workers=config.train.loader_workers,
    )
    num_steps = building.total_steps(config, len(train))
    with building.checkpointer(config, workdir) as checkpoints:
        state = first_state(
            config, model, len(train), mesh, local, resumes=bool(checkpoints.steps())
        )
        logging.info("%s", _sizes(state))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        state = fit(
            state,
            building.train_step(config, model, len(train), shardings),
            loader,
            frozen,
            num_steps=num_steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(workdir),
            log_every=config.train.log_every,
            checkpoint_every=config.train.checkpoint_every,
            eval_every=config.train.eval_every,
            evaluate=evaluator(config, model, frozen, held_out, mesh),
            show=("loss", "reconstruction_loss", "words_used"),
            description="training the local tokenizer",
            hang_seconds=60.0 * config.train.hang_minutes,
            profiler=StepProfiler(config.get("profile", ()), workdir / "profile"),
        )
        best = checkpoints.best_step()
    report = {
        "steps": num_steps,
        "best_step": best,
        "corrupt_files_replaced": dict(loader.replaced),
    }
    if state.spikes is not None:
        report["skipped_steps"] = int(state.spikes.skipped)
    if is_primary():
        write_json(_marker(workdir), report)


def first_state(
    config: ConfigDict,
    model: V2LTokenizer,
    num_images: int,
    mesh: Mesh,
    local_words: Codebook,
    resumes: bool,
) -> TrainState:
    """The state before the first step, or one for a checkpoint to fill: that one needs no
    `config.train.start_from`, whose files may be on the machine that began the run.
    """
    state = building.placed_state(config, model, num_images, mesh)
    if config.train.start_from and not resumes:
        return building.with_released_params(config, state, model, local_words)
    return state


def _sizes(state: Any) -> str:
    count = parameter_overview.count_parameters
    return f"{count(state.params):,} tokenizer and {count(state.disc_params):,} discriminator parameters"


def evaluator(
    config: ConfigDict, model: Any, frozen: Any, held_out: Any, mesh: Any
) -> Callable[[Any], dict[str, float]]:
    """Returns `state -> held-out metrics`, over the same photos each time; several processes share
    these.

    Quality is the mean over `EVALUATION_IMAGES` photos, decoded. Which words are used is counted
    over all of them, encoded only: codebook_usage (share of the words), perplexity, dead_words (how
    many no photo uses).
    """
    chosen = np.linspace(0, len(held_out) - 1, min(EVALUATION_IMAGES, len(held_out))).astype(int)
    others = np.setdiff1d(np.arange(len(held_out)), chosen)
    own_photos, own_others = (
        Subset(held_out, part[jax.process_index() :: jax.process_count()])
        for part in (chosen, others)
    )
    own_mesh = loading.mesh(config)

    def evaluate(state: Any) -> dict[str, float]:
        params, given = whole_on_own_devices((state.eval_params, frozen), mesh, own_mesh)
        variables = {"params": params, "frozen": given["model"]}
        scores = score(config, model, variables, own_photos, own_mesh, given.get("lpips"))
        counts = scores.word_counts + word_counts(config, model, variables, own_others, own_mesh)
        sums = {name: values.sum(dtype=np.float64) for name, values in scores.per_image.items()}
        sums, counts = sum_over_processes((sums, counts))
        usage = summarise(counts)
        return {name: float(value) / len(chosen) for name, value in sums.items()} | {
            "codebook_usage": usage.fraction,
            "perplexity": usage.perplexity,
            "dead_words": float(len(usage.dead)),
        }

    return evaluate
