"""Every photo becomes words: global ones from the image-text tower, local ones from the trained
tokenizer.
"""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import Source, WithVectors
from v2l_jax.progress import progress_bar
from v2l_jax.run import building, features, loading
from v2l_jax.run.reconstruction import full_batches
from v2l_jax.tokenizers.v2l import ImageTokens, tokenize

SPLITS = ("train", "held_out")


def path_of(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """Where the words of a split lie."""
    return workdir / "tokens" / f"{split}.npz"


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether all photos have words."""
    del config
    return all(path_of(workdir, split).exists() for split in SPLITS)


def read(workdir: pathlib.Path, split: str) -> ImageTokens:
    """The words of a split, in the order of its photos."""
    with np.load(path_of(workdir, split), allow_pickle=False) as arrays:
        return ImageTokens(global_ids=arrays["global_ids"], local_ids=arrays["local_ids"])


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes tokens/train.npz and tokens/held_out.npz: global_ids [images, k], local_ids [images,
    h, w], labels.
    """
    mesh, photos = loading.mesh(config), loading.photos(config)
    trained = building.trained_tokenizer(config, workdir, len(photos.train), mesh)
    sources: dict[str, Source] = {"train": photos.train, "held_out": photos.held_out}
    for split, source in sources.items():
        if path_of(workdir, split).exists():
            continue
        known = WithVectors(source, features.cached(config, workdir, split, source))
        parts = []
        batches = progress_bar(
            full_batches(config, known, mesh),
            f"tokenizing {split}",
            "batch",
            -(-len(known) // config.evaluate.batch_size),
        )
        for batch, count in batches:
            tokens = tokenize(
                trained.model,
                trained.variables,
                batch["image"],
                batch["image_embedding"],
                config.model.global_tokens,
            )
            parts.append(jax.tree.map(lambda x: np.asarray(x)[:count], tokens))
        tokens = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        with atomic_write(path_of(workdir, split)) as draft:
            np.savez(
                draft,
                global_ids=tokens.global_ids,
                local_ids=tokens.local_ids,
                labels=np.asarray(source.labels),
            )
