"""The local tokenizer learns to redraw photos from the LLM's words."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import Subset, WithVectors
from v2l_jax.jobs import building, codebook, features, loading
from v2l_jax.jobs.reconstruction import score
from v2l_jax.jobs.workdir import write_json
from v2l_jax.parallel.mesh import local_rows, replicate
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog

EVALUATION_IMAGES = 128


def _marker(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "training.json"


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether training has ended."""
    del config
    return _marker(workdir).exists()


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to the end, from the newest checkpoint; writes checkpoints/, metrics.jsonl, and training.json at the end."""
    mesh, photos = loading.mesh(config), loading.photos(config)
    local, global_ = Codebook.load(codebook.local_path(workdir)), Codebook.load(codebook.global_path(workdir))
    for book in (local, global_):
        book.check_made_for(loading.text_tokenizer(config).fingerprint)
    train = WithVectors(photos.train, features.cached(config, workdir, "train", photos.train))
    held_out = WithVectors(photos.held_out, features.cached(config, workdir, "held_out", photos.held_out))
    model = building.tokenizer_for(config, local, global_)
    state = replicate(jax.jit(lambda: building.initial_state(config, model, len(train)))(), mesh)
    logging.info("%s", _sizes(state))
    frozen = replicate(building.frozen_inputs(config, building.frozen_words(local, global_)), mesh)
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
        state = fit(
            state,
            building.train_step(config, model, len(train)),
            loader,
            frozen,
            num_steps=num_steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(workdir),
            log_every=config.train.log_every,
            checkpoint_every=config.train.checkpoint_every,
            eval_every=config.train.eval_every,
            evaluate=_evaluator(config, model, frozen, held_out, mesh),
            show=("loss", "reconstruction_loss", "words_used"),
            description="training the local tokenizer",
        )
        best = checkpoints.best_step()
    write_json(_marker(workdir), {"steps": num_steps, "best_step": best, "corrupt_files_replaced": dict(loader.replaced)})


def _sizes(state: Any) -> str:
    count = parameter_overview.count_parameters
    return f"{count(state.params):,} tokenizer and {count(state.disc_params):,} discriminator parameters"


def _evaluator(config: ConfigDict, model: Any, frozen: Any, held_out: Any, mesh: Any) -> Callable[[Any], dict[str, float]]:
    """Returns `state -> held-out metrics`, over the same photos each time."""
    some = Subset(held_out, np.linspace(0, len(held_out) - 1, min(EVALUATION_IMAGES, len(held_out))).astype(int))

    def evaluate(state: Any) -> dict[str, float]:
        variables = {"params": state.params, "frozen": frozen["model"]}
        scores = score(config, model, variables, some, mesh, frozen.get("lpips"))
        return {name: float(np.mean(values)) for name, values in scores.per_image.items()} | {
            "codebook_usage": scores.usage.fraction,
            "perplexity": scores.usage.perplexity,
        }

    return evaluate
