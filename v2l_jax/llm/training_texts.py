"""Batches of a task's own texts, which adapters of the language model are trained on."""

import dataclasses
import functools
import os
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
      together: texts of one image that are learnt in a step. From 2 on, `count` and `texts` go by
        images that have texts, and what all prompts of an image begin with is read once.
    """

    rows: Mapping[str, Sequence[Asked]]
    features: np.ndarray | None = None
    together: int = 1

    @functools.cached_property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the longest text, and of the longest answer."""
        every = [row for rows in self.rows.values() for row in rows]
        return max(len(r.prompt) + len(r.answer) for r in every), max(len(r.answer) for r in every)

    @functools.cached_property
    def groups(self) -> dict[str, list["Group"]]:
        """By split, the texts of each image, in the order in which images first appear."""
        found = {}
        for split, rows in self.rows.items():
            by_image: dict[int, list[Asked]] = {}
            for row in rows:
                by_image.setdefault(row.image, []).append(row)
            found[split] = [Group.of(texts) for texts in by_image.values()]
        several = [len(g.prefix) for groups in found.values() for g in groups if len(g.rests) > 1]
        most = max(several, default=0)  # a text alone begins like itself: no need to read it apart
        return {split: [group.cut(most) for group in groups] for split, groups in found.items()}

    def checked(self, context_length: int) -> "AnswerTexts":
        """Itself; raises DataError where a text does not fit the model's context."""
        if self.lengths[0] > context_length:
            raise DataError(
                f"a text has {self.lengths[0]} tokens, but the language model's context "
                f"{context_length}; write less of an image, or shorten the question"
            )
        return self

    def count(self, split: str) -> int:
        """Texts of a split, or images where several texts are learnt together."""
        return len(self.rows[split] if self.together == 1 else self.groups[split])

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """See `TrainingTexts`; of images with more texts than are learnt together, some are
        drawn.
        """
        if self.together > 1:
            return self._by_image([self.groups[split][i] for i in images], seed)
        chosen = [self.rows[split][i] for i in images]
        batch = padded_texts([(row.prompt, row.answer) for row in chosen], *self.lengths)
        return batch | self._shown([row.image for row in chosen])

    def _by_image(self, groups: Sequence["Group"], seed: tuple[int, ...]) -> dict[str, np.ndarray]:
        """A batch with "prefix", int32 [images, length], and "tokens" and "targets" of the texts
        after it, each [images, together, length].
        """
        every = [group for groups in self.groups.values() for group in groups]
        longest = max(group.longest for group in every)
        prefix = np.full((len(groups), max(len(g.prefix) for g in every)), -1, np.int32)
        rows, answers = [], self.lengths[1]
        for i, group in enumerate(groups):
            prefix[i, : len(group.prefix)] = group.prefix
            order = np.random.default_rng((*seed, i)).permutation(len(group.rests))
            drawn = [group.rests[j] for j in order[: self.together]]
            rows += [*drawn, *[((), ())] * (self.together - len(drawn))]
        batch = padded_texts(rows, longest, answers)
        shape = (len(groups), self.together)
        batch = {name: x.reshape(*shape, -1) for name, x in batch.items()} | {"prefix": prefix}
        return batch | self._shown([group.image for group in groups])

    def _shown(self, images: Sequence[int]) -> dict[str, np.ndarray]:
        if self.features is None:
            return {}
        return {"features": np.asarray(self.features[list(images)], np.float32)}


class Group(NamedTuple):
    """The texts of an image: what all begin with, then what is left of each prompt, with its
    answer.
    """

    image: int
    prefix: Sequence[int]
    rests: Sequence[tuple[Sequence[int], Sequence[int]]]

    @classmethod
    def of(cls, rows: Sequence[Asked]) -> "Group":
        """Divides the texts of an image; every prompt keeps its last token for itself."""
        shortest = min(len(row.prompt) for row in rows) - 1
        shared = len(os.path.commonprefix([list(row.prompt[:shortest]) for row in rows]))
        rests = [(row.prompt[shared:], row.answer) for row in rows]
        return cls(rows[0].image, rows[0].prompt[:shared], rests)

    def cut(self, most: int) -> "Group":
        """With at most so many tokens before the rests."""
        moved = self.prefix[most:]
        rests = [([*moved, *prompt], answer) for prompt, answer in self.rests]
        return Group(self.image, self.prefix[:most], rests)

    @property
    def longest(self) -> int:
        """Tokens of the longest rest with its answer."""
        return max(len(prompt) + len(answer) for prompt, answer in self.rests)
