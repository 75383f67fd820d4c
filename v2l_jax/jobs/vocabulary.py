"""Visual words: the features of the training images' patches are clustered."""

import pathlib

from ml_collections import ConfigDict

from v2l_jax.errors import ConfigError
from v2l_jax.representations import representation
from v2l_jax.representations import visual_words as words
from v2l_jax.run.run import Run


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether words of these options are there.

    Raises:
      ConfigError: others are there, or the representation is another one.
    """
    if not words.vocabulary_path(workdir).exists():
        return False
    _options(config).vocabulary(Run(config, workdir))
    return True


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes vocabulary/visual_words.safetensors, and the patch features in patches/."""
    words.make_vocabulary(_options(config), Run(config, workdir))


def _options(config: ConfigDict) -> words.Options:
    chosen = representation(config)
    if not isinstance(chosen, words.Options):
        raise ConfigError(
            "the vocabulary job makes visual words, but config.representation.kind is "
            f"{config.representation.kind!r}; set it to 'visual_words', or leave the job out"
        )
    return chosen
