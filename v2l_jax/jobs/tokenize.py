"""Every image becomes token ids, by the trained tokenizer."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from v2l_jax.atomic_write import atomic_write
from v2l_jax.jobs import train
from v2l_jax.progress import progress_bar
from v2l_jax.run import building, loading
from v2l_jax.run.reconstruction import full_batches
from v2l_jax.tokenizers.base import TokenStreams

SPLITS = ("train", "held_out")
_SUFFIX = "_ids"


def path_of(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """Where the tokens of a split lie."""
    return workdir / "tokens" / f"{split}.npz"


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether all images have tokens."""
    del config
    return all(path_of(workdir, split).exists() for split in SPLITS)


def read(workdir: pathlib.Path, split: str) -> TokenStreams:
    """The token ids of a split by stream, in the order of its images."""
    with np.load(path_of(workdir, split), allow_pickle=False) as arrays:
        return {
            name.removesuffix(_SUFFIX): arrays[name]
            for name in arrays.files
            if name.endswith(_SUFFIX)
        }


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes tokens/train.npz and tokens/held_out.npz: labels, and the ids of each stream (V2L:
    global_ids [images, k] and local_ids [images, h, w]).
    """
    mesh, photos = loading.mesh(config), loading.photos(config)
    trained = building.trained_tokenizer(config, workdir, len(photos.train), mesh)
    encode = jax.jit(trained.tokenizer.encode)
    for split, source in train.images(config, workdir, trained.tokenizer).items():
        if path_of(workdir, split).exists():
            continue
        parts = []
        batches = progress_bar(
            full_batches(config, trained.tokenizer, source, mesh),
            f"tokenizing {split}",
            "batch",
            -(-len(source) // config.evaluate.batch_size),
        )
        for batch, count in batches:
            tokens = encode(trained.variables, batch)
            parts.append(jax.tree.map(lambda x: np.asarray(x)[:count], tokens))
        tokens = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        arrays = {f"{stream}{_SUFFIX}": ids for stream, ids in tokens.items()}
        with atomic_write(path_of(workdir, split)) as draft:
            np.savez(draft, **arrays, labels=np.asarray(source.labels))
