"""The token ids that the tokenize job wrote."""

import pathlib

import numpy as np

from v2l_jax.run.paths import tokens_path
from v2l_jax.tokenizers.base import TokenStreams

SPLITS = ("train", "held_out")
TOKENS_SUFFIX = "_ids"
"""A stream "local" is the array "local_ids" of the file."""


def read_tokens(workdir: pathlib.Path, split: str) -> TokenStreams:
    """The token ids of a split by stream, in the order of its images."""
    with np.load(tokens_path(workdir, split), allow_pickle=False) as arrays:
        return {
            name.removesuffix(TOKENS_SUFFIX): arrays[name]
            for name in arrays.files
            if name.endswith(TOKENS_SUFFIX)
        }
