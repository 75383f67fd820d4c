"""The token ids that the tokenize job wrote."""

import pathlib
from typing import Any

import numpy as np

from v2l_jax.atomic_write import atomic_write
from v2l_jax.formats.numpy_files import read_npz
from v2l_jax.run.paths import tokens_path
from v2l_jax.tokenizers.base import TokenStreams

SPLITS = ("train", "held_out")
TOKENS_SUFFIX = "_ids"
"""A stream "local" is the array "local_ids" of the file."""


def write_tokens(workdir: pathlib.Path, split: str, tokens: TokenStreams, **more: Any) -> None:
    """Writes what `read_tokens` reads, atomically, with other arrays beside it."""
    arrays = {f"{stream}{TOKENS_SUFFIX}": ids for stream, ids in tokens.items()}
    with atomic_write(tokens_path(workdir, split)) as draft:
        np.savez(draft, **arrays, **more)


def read_tokens(workdir: pathlib.Path, split: str) -> TokenStreams:
    """The token ids of a split by stream, in the order of its images."""
    path = tokens_path(workdir, split)
    remedy = "delete it, and run the tokenize job again: --config.jobs=tokenize"
    return {
        name.removesuffix(TOKENS_SUFFIX): array
        for name, array in read_npz(path, remedy=remedy).items()
        if name.endswith(TOKENS_SUFFIX)
    }
