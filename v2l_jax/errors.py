"""Errors whose message is written for the person at the terminal: what was wrong, where, what to
do.
"""


class V2LError(Exception):
    """Base of every error that `main` prints as one line, without a traceback."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names from outside may hold line breaks


class AssetError(V2LError):
    """A weight or photo file is missing, tampered with, truncated, or cannot be downloaded."""


class DataError(V2LError):
    """A dataset is empty, too small for the question asked, or unreadable."""


class CheckpointError(V2LError):
    """A checkpoint cannot be written, read, or does not fit the model."""


class ConfigError(V2LError):
    """A config has an unknown key or a bad value."""


class NanLossError(V2LError):
    """The training loss stopped being a number."""
