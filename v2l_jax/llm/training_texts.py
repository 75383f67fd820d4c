"""Batches of a task's own texts, which adapters of the language model are trained on."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from v2l_jax.errors import DataError


@runtime_checkable
class TrainingTexts(Protocol):
    """The texts of a task, each of one image: prompts with their answers."""

    def count(self, split: str) -> int:
        """Images of a split, "train" or "held_out"."""
        ...

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """A batch of `llm.adapter_step`, a row an image.

        Args:
          split: "train" or "held_out".
          images: their numbers in the split.
          seed: entropy of whatever is drawn.
        """
        ...


class TextBatches(Iterator):
    """Endless training batches: images in a new order each epoch, new texts each step; a function
    of seed and step alone.

    Args:
      texts: of the task.
      batch_size: images of a step, over all processes.
      seed: of order and texts.
      rows: which images of a batch this process gets (`parallel.mesh.local_rows`).

    Raises:
      DataError: there are fewer images than a batch holds.
    """

    def __init__(
        self, texts: TrainingTexts, batch_size: int, seed: int, rows: Int[np.ndarray, " rows"]
    ):
        self._count = texts.count("train")
        if self._count < batch_size:
            raise DataError(
                f"a batch of {batch_size} images needs as many training photos, but there are "
                f"{self._count}; lower the batch size"
            )
        self._texts, self._batch_size, self._seed, self._rows = texts, batch_size, seed, rows
        self._step = 0

    def __next__(self) -> dict[str, np.ndarray]:
        epoch, batch = divmod(self._step, self._count // self._batch_size)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(self._count)
        images = order[batch * self._batch_size :][: self._batch_size]
        texts = self._texts.texts("train", images, (self._seed, 1, self._step))
        self._step += 1
        return jax.tree.map(lambda x: x[self._rows], texts)

    def get_state(self) -> int:
        """Steps drawn."""
        return self._step

    def set_state(self, step: int) -> None:
        """Goes on after `step` steps."""
        self._step = step


def padded_texts(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], length: int, answers: int
) -> dict[str, np.ndarray]:
    """Prompts with their answers as a batch of `llm.adapter_step`: the answers' tokens count.

    Args:
      rows: token ids of each prompt and of its answer.
      length: tokens of the longest text.
      answers: tokens of the longest answer.
    """
    tokens = np.full((len(rows), length), -1, np.int32)
    targets = np.full((len(rows), answers), -1, np.int32)
    for row, (prompt, answer) in enumerate(rows):
        whole = [*prompt, *answer]
        tokens[row, : len(whole)] = whole
        targets[row, : len(answer)] = np.arange(len(prompt), len(whole))
    return {"tokens": tokens, "targets": targets}


class Asked(NamedTuple):
    """A question about an image with its answer, in token ids."""

    image: int
    prompt: Sequence[int]
    answer: Sequence[int]


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTexts:
    """Prompts with their answers, of which the answers' tokens are learnt.

    Attributes:
      rows: by split.
      features: [images, slots, dim], what a connector turns into vectors; None without one.
    """

    rows: Mapping[str, Sequence[Asked]]
    features: np.ndarray | None = None

    @functools.cached_property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the longest text, and of the longest answer."""
        every = [row for rows in self.rows.values() for row in rows]
        return max(len(r.prompt) + len(r.answer) for r in every), max(len(r.answer) for r in every)

    def checked(self, context_length: int) -> "AnswerTexts":
        """Itself; raises DataError where a text does not fit the model's context."""
        if self.lengths[0] > context_length:
            raise DataError(
                f"a text has {self.lengths[0]} tokens, but the language model's context "
                f"{context_length}; write less of an image, or shorten the question"
            )
        return self

    def count(self, split: str) -> int:
        """Texts of a split."""
        return len(self.rows[split])

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """See `TrainingTexts`; nothing is drawn."""
        del seed
        chosen = [self.rows[split][i] for i in images]
        batch = padded_texts([(row.prompt, row.answer) for row in chosen], *self.lengths)
        if self.features is not None:
            shown = self.features[[row.image for row in chosen]]
            batch["features"] = np.asarray(shown, np.float32)
        return batch
