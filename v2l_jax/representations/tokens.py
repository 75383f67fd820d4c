"""An image is written as the ids of the run's trained tokenizer, in the words that they stand for:
SPAE's upper layers, VQ-GAN*'s or LQAE's words in raster order.

The tokenizer's streams follow one another, SPAE's layers from the first on, so that a budget of 5
is SPAE's first two layers, 21 three, and so on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from v2l_jax.data.sources import Source
from v2l_jax.errors import ConfigError
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import TEXT, option
from v2l_jax.representations.base import ImageSet, Representation, Segments, Text, Written
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.run import building
from v2l_jax.run.paths import tokens_path, training_path
from v2l_jax.run.reconstruction import encoded
from v2l_jax.run.run import Run
from v2l_jax.run.tokens import read_tokens, write_tokens
from v2l_jax.run.workdir import read_json
from v2l_jax.tokenizers.base import TokenStreams


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Options of a tokenizer's ids as words. The budget counts words."""

    stream: str = option("", "of the tokenizer, such as 'local'; '' is all, in order", TEXT)

    def fingerprint(self) -> dict[str, Scalar]:
        """The stream; which tokenizer, the row's identity says."""
        return {"stream": self.stream or "all"}

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Encodes what the tokenize job has not, and keeps it in the folder tokens/.

        Raises:
          ConfigError: the tokenizer's ids stand for no words.
        """
        del budget
        _check_words(run, self.stream)
        for name, part in images.parts:
            _tokens(run, name, part)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """A text for each id, as many as the budget lets."""
        _check_words(run, self.stream)
        tokenizer, written = run.trained.tokenizer, []
        for name, part in images.parts:
            tokens = _tokens(run, name, part)
            chosen = [self.stream] if self.stream else list(tokens)
            counts = [np.prod(tokens[stream].shape[1:], dtype=int) for stream in chosen]
            ids = np.concatenate(
                [tokens[s].reshape(len(part), n) for s, n in zip(chosen, counts, strict=True)], 1
            )[:, :budget]
            streams = np.repeat(np.asarray(chosen), counts)[:budget]
            written += [(ids[i], streams) for i in range(len(part))]
        own = tokenizer.texts_of

        def write(index: int) -> Segments:
            row, streams = written[index]
            text = own(row)
            if text is not None:
                return (Text(text.strip()),)
            return word_texts([_book(run, s)[int(i)] for i, s in zip(row, streams, strict=True)])

        return Written(len(images), write)


def _book(run: Run, stream: str) -> tuple[str, ...]:
    """The words that a stream's ids are rows of."""
    name = run.trained.tokenizer.word_streams[stream]
    return (run.local_words if name == "local" else run.global_words).texts


def _check_words(run: Run, stream: str) -> None:
    tokenizer = run.trained.tokenizer
    if stream and stream not in tokenizer.codebooks:
        raise ConfigError(
            f"config.representation.tokens.stream is {stream!r}, but the tokenizer has "
            f"{', '.join(tokenizer.codebooks)}"
        )
    wanted = [stream] if stream else list(tokenizer.codebooks)
    without = [s for s in wanted if s not in tokenizer.word_streams]
    if without and tokenizer.texts_of(np.zeros(1, np.int32)) is None:
        raise ConfigError(
            f"the tokenizer {run.config.model.kind} has no words for its ids ({without[0]}); "
            "choose another config.representation.kind"
        )


def _tokens(run: Run, name: str, source: Source) -> TokenStreams:
    """The ids of a part's images, as the tokenize job left them, or encoded and kept."""
    if run.has_tokens(name):
        return run.tokens(name)
    training = json.dumps(read_json(training_path(run.workdir), {}), sort_keys=True)
    digest = hashlib.sha256(training.encode()).hexdigest()[:8]  # another training, other tokens
    kept = f"own-{run.file_name(name, source)}-{digest}"
    if not tokens_path(run.workdir, kept).exists():
        trained = run.trained
        whole = building.with_inputs(trained.tokenizer, source, lambda: run.features(name, source))
        description = f"tokenizing the {name} photos"
        tokens = encoded(run.config, trained, whole, run.mesh, description)
        write_tokens(run.workdir, kept, tokens)
    return read_tokens(run.workdir, kept)
