"""The visual tokenizer learns to redraw images from tokens."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging
from clu import parameter_overview
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.sources import Source
from v2l_jax.errors import ConfigError
from v2l_jax.parallel.processes import is_primary
from v2l_jax.run import building, features, loading
from v2l_jax.run.paths import training_path
from v2l_jax.run.reconstruction import evaluator
from v2l_jax.run.workdir import note_unmarked, read_json, write_json
from v2l_jax.tokenizers.base import VisualTokenizer
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.profiler import StepProfiler

EVERY_PROCESS = True
"""Several processes share this job; see `runner.run_jobs`."""


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether training has ended, after as many steps or epochs as are asked for now; a released
    tokenizer takes its place.
    """
    if config.model.released:
        return True
    report = read_json(training_path(workdir), None)
    if report is None:
        return False
    c = config.train
    return c.steps <= report["steps"] and c.epochs <= report.get("epochs", c.epochs)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to the end, from the newest checkpoint; writes checkpoints/, metrics.jsonl, and
    training.json at the end.
    """
    if is_primary() and training_path(workdir).exists():  # prolonged: what others made is of before
        note_unmarked([workdir / "tokens", workdir / "release"], workdir)
    mesh, books = loading.shared_mesh(config), building.codebooks(config, workdir)
    for book in books.values():
        book.check_made_for(loading.text_tokenizer(config).fingerprint)
    words = building.vectors(books)
    tokenizer = building.tokenizer(config, words)
    splits = images(config, workdir, tokenizer)
    trainer = building.trainer(config, tokenizer, len(splits["train"]), mesh)
    frozen = trainer.placed_frozen(
        building.frozen_inputs(tokenizer, words, building.lpips_params(config))
    )
    loader = trainer.loader(splits["train"])
    with trainer.checkpointer(building.checkpoints_folder(workdir)) as checkpoints:
        # A checkpoint needs no start_from, whose files may be on the machine that began the run.
        begins = config.train.start_from and not checkpoints.steps()
        params = _pretrained(config, tokenizer, books) if begins else None
        state = trainer.placed_state(params)
        logging.info("%s", _sizes(state))
        state = trainer.fit(
            state,
            loader,
            frozen,
            evaluate=evaluator(config, tokenizer, frozen, splits["held_out"], mesh),
            metric_log=MetricLog(workdir),
            description="training the tokenizer",
            checkpointer=checkpoints,
            profiler=StepProfiler(config.get("profile", ()), workdir / "profile"),
        )
        best = checkpoints.best_step()
    report = {
        "steps": trainer.total_steps,
        "epochs": config.train.epochs,
        "best_step": best,
        "corrupt_files_replaced": dict(loader.replaced),
    }
    if state.spikes is not None:
        report["skipped_steps"] = int(state.spikes.skipped)
    if is_primary():
        write_json(training_path(workdir), report)


def _pretrained(
    config: ConfigDict, tokenizer: VisualTokenizer, books: Mapping[str, Codebook]
) -> Any | None:
    """The parameters that `train.start_from` names; None, with a line, where they are of other
    words or sizes and `train.start_from_nothing` allows that.
    """
    try:
        return tokenizer.pretrained(config.train.start_from, books)
    except ConfigError as error:
        if not config.train.start_from_nothing:
            raise
        logging.warning("training starts from nothing: %s", error)
        return None


def images(
    config: ConfigDict, workdir: pathlib.Path, tokenizer: VisualTokenizer
) -> dict[str, Source]:
    """The run's images by split, "train" and "held_out", with all that the tokenizer takes; all
    processes call this together.
    """
    photos = loading.photos(config)
    vectors = functools.partial(features.cached, config, workdir, together=True)
    return {
        split: building.with_inputs(
            tokenizer, source, functools.partial(vectors, name=split, source=source)
        )
        for split, source in (("train", photos.train), ("held_out", photos.held_out))
    }


def _sizes(state: Any) -> str:
    count = parameter_overview.count_parameters
    return (
        f"{count(state.params):,} tokenizer and {count(state.disc_params):,} discriminator "
        "parameters"
    )
