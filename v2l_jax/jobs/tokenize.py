"""Every image becomes token ids, by the trained tokenizer."""

import functools
import pathlib
import shutil

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2l_jax.data.sources import Source
from v2l_jax.jobs import train
from v2l_jax.parallel.processes import barrier, is_primary
from v2l_jax.run import building, loading
from v2l_jax.run.paths import tokens_path
from v2l_jax.run.reconstruction import encoded
from v2l_jax.run.shards import Arrays, Shards, joined, part_of
from v2l_jax.run.tokens import SPLITS, write_tokens
from v2l_jax.run.workdir import is_from_this_training, note_training

EVERY_PROCESS = True
"""Several processes share this job; see `runner.run_jobs`."""
_BATCHES = 32  # of a shard


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether all images have tokens of the tokenizer as it is trained now."""
    del config
    there = all(tokens_path(workdir, split).exists() for split in SPLITS)
    return there and is_from_this_training(workdir / "tokens", workdir)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes tokens/train.npz and tokens/held_out.npz: labels, and the ids of each stream (V2L:
    global_ids [images, k] and local_ids [images, h, w]). Tokens of an earlier training, which was
    prolonged, are made anew.
    """
    if is_primary():
        _forget_earlier(workdir)
        note_training(workdir / "tokens", workdir)
    barrier("earlier tokens")
    mesh, photos = loading.mesh(config), loading.photos(config)
    trained = building.trained_tokenizer(config, workdir, len(photos.train), mesh)
    rows = _BATCHES * config.evaluate.batch_size
    for split, source in train.images(config, workdir, trained.tokenizer).items():
        if tokens_path(workdir, split).exists():
            continue
        make = functools.partial(_tokens, config, trained, source, mesh, split)
        shards = Shards(_shards_folder(workdir, split), len(source), rows, make, together=True)
        shards.fill()
        if is_primary():
            write_tokens(workdir, split, joined(shards), labels=np.asarray(source.labels))
        shards.remove()


def _tokens(
    config: ConfigDict,
    trained: building.TrainedTokenizer,
    source: Source,
    mesh: Mesh,
    split: str,
    start: int,
    stop: int,
) -> Arrays:
    part, description = part_of(source, start, stop, f"tokenizing {split}")
    return dict(encoded(config, trained, part, mesh, description))


def _forget_earlier(workdir: pathlib.Path) -> None:
    """Deletes what was made with the tokenizer before training was prolonged."""
    if not is_from_this_training(workdir / "tokens", workdir):
        for split in SPLITS:
            tokens_path(workdir, split).unlink(missing_ok=True)
            shutil.rmtree(_shards_folder(workdir, split), ignore_errors=True)


def _shards_folder(workdir: pathlib.Path, split: str) -> pathlib.Path:
    return workdir / "tokens" / f"{split}.shards"
