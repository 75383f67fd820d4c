"""Every image becomes token ids, by the trained tokenizer."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.jobs import train
from v2l_jax.run import building, loading
from v2l_jax.run.paths import tokens_path
from v2l_jax.run.reconstruction import encoded
from v2l_jax.run.tokens import SPLITS, write_tokens
from v2l_jax.run.workdir import is_from_this_training, note_training


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
    if not is_from_this_training(workdir / "tokens", workdir):
        for split in SPLITS:
            tokens_path(workdir, split).unlink(missing_ok=True)
    note_training(workdir / "tokens", workdir)
    mesh, photos = loading.mesh(config), loading.photos(config)
    trained = building.trained_tokenizer(config, workdir, len(photos.train), mesh)
    for split, source in train.images(config, workdir, trained.tokenizer).items():
        if not tokens_path(workdir, split).exists():
            tokens = encoded(config, trained, source, mesh, f"tokenizing {split}")
            write_tokens(workdir, split, tokens, labels=np.asarray(source.labels))
