"""Where the files of a run lie in its folder."""

import pathlib


def local_path(workdir: pathlib.Path) -> pathlib.Path:
    """The local codebook."""
    return workdir / "codebook" / "local.safetensors"


def global_path(workdir: pathlib.Path) -> pathlib.Path:
    """The global codebook."""
    return workdir / "codebook" / "global.safetensors"


def candidates_path(workdir: pathlib.Path) -> pathlib.Path:
    """All n-grams, before the training images have chosen."""
    return workdir / "codebook" / "candidates.safetensors"


def training_path(workdir: pathlib.Path) -> pathlib.Path:
    """What training ended with: steps, the best one, files that could not be read."""
    return workdir / "training.json"


def tokens_path(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """The token ids of a split's images."""
    return workdir / "tokens" / f"{split}.npz"


def assumed_path(workdir: pathlib.Path) -> pathlib.Path:
    """What no file beside the tower's weights states, a sentence each."""
    return workdir / "features" / "assumed.json"
