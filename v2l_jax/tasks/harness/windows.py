"""Tokens of images filled in a window at a time: prompts of examples and a query, and the loop.

A prompt shows an instruction, then examples, each an input and an output, then the query's input;
the language model answers with the query's output, the tokens of one window.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.prompt_batches import PrefixCache
from v2l_jax.progress import progress_bar

_PROMPTS_AT_ONCE = 8192


class Window(NamedTuple):
    """Positions of a flattened image that inputs show, and those that outputs show."""

    source: slice
    target: slice


def cover(missing: Bool[np.ndarray, " positions"], size: int) -> list[slice]:
    """Where windows lie: from each missing position that none covers yet, `size` positions on.

    A window may reach beyond a hole where `size` does not divide its width, but not beyond the last
    position.
    """
    found: list[slice] = []
    for start in np.flatnonzero(missing).tolist():
        if not found or start >= found[-1].stop:
            found.append(slice(start, min(start + size, len(missing))))
    return found


@dataclasses.dataclass(frozen=True)
class PromptPieces:
    """Token ids of a prompt's fixed texts: what stands first, before an input, after an input."""

    instruction: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]


def prompt_length(pieces: PromptPieces, window: Window, examples: int) -> int:
    """Tokens of a prompt of so many examples and its answer."""
    words = sum(part.stop - part.start for part in window)
    shown = len(pieces.input) + len(pieces.output) + words
    return len(pieces.instruction) + (examples + 1) * shown


@dataclasses.dataclass(frozen=True)
class WindowPrompts:
    """Prompts of any window, in token ids of the language model.

    Attributes:
      pieces: the fixed texts.
      inputs, outputs: of the examples.
    """

    pieces: PromptPieces
    inputs: Int[np.ndarray, "images examples positions"]
    outputs: Int[np.ndarray, "images examples positions"]

    def __call__(
        self,
        query: Int[np.ndarray, "images positions"],
        window: Window,
        images: slice = slice(None),
    ) -> list[list[int]]:
        """One window's prompt for every image, or some.

        Args:
          query: the images to be filled in.
          window: what is shown and asked for.
          images: which images.
        """
        shown = query[images, window.source]
        before, after = (
            _repeated(ids, len(shown)) for ids in (self.pieces.input, self.pieces.output)
        )
        prompts = [self.prefixes(window, images), before, shown, after]
        return np.concatenate(prompts, axis=-1).tolist()

    def prefixes(
        self, window: Window, images: slice = slice(None)
    ) -> Int[np.ndarray, "images tokens"]:
        """What the prompts begin with, whatever the query: instruction and examples."""
        inputs, outputs = (
            self.inputs[images, :, window.source],
            self.outputs[images, :, window.target],
        )
        before, after = (
            _repeated(ids, *inputs.shape[:2]) for ids in (self.pieces.input, self.pieces.output)
        )
        examples = np.concatenate([before, inputs, after, outputs], axis=-1)
        instruction = _repeated(self.pieces.instruction, len(inputs))
        return np.concatenate([instruction, examples.reshape(len(inputs), -1)], axis=-1)


@dataclasses.dataclass(frozen=True)
class WindowFilling:
    """Asks the language model for every window, greedily, among some tokens.

    Attributes:
      engine: the frozen language model.
      prompts: of any window.
      windows: in the order of their positions.
      allowed: token ids that may be answered.
      description: for the progress bar.
    """

    engine: LLMEngine
    prompts: WindowPrompts
    windows: Sequence[Window]
    allowed: Sequence[int]
    description: str = ""

    def in_order(
        self, query: Int[np.ndarray, "images positions"]
    ) -> Int[np.ndarray, "images positions"]:
        """A window of all images at a time; what is predicted is the source of later windows.

        Only a prompt's end depends on what was predicted: the examples before it are computed for
        several windows at once.

        Raises:
          DataError: a prompt does not fit the model's context.
        """
        filled, windows = query.copy(), list(self.windows)
        firsts = [self.prompts(query, window, slice(1))[0] for window in windows]
        self.engine.check_lengths(firsts, self._size)
        longest = max(
            (self.prompts.prefixes(window, slice(1)).size for window in windows), default=1
        )
        at_once = max(1, self.engine.token_budget // (longest * len(query)))
        for index, window in enumerate(progress_bar(windows, self.description, "window")):
            if index % at_once == 0:
                coming = windows[index : index + at_once]
                cache = self.engine.cache_prefixes(
                    [prefix for w in coming for prefix in self.prompts.prefixes(w).tolist()]
                )
            answers = self._answers(self.prompts(filled, window), "", cache)
            filled[:, window.target] = answers[:, : _length(window)]
        return filled

    def at_once(
        self, query: Int[np.ndarray, "images positions"]
    ) -> Int[np.ndarray, "images positions"]:
        """All windows of all images, none of which depends on another; in several calls only where
        so many prompts would fill the host's memory.

        Raises:
          DataError: a prompt does not fit the model's context.
        """
        filled = query.copy()
        step = max(1, _PROMPTS_AT_ONCE // len(self.windows))
        for images in (slice(first, first + step) for first in range(0, len(query), step)):
            asked = [p for window in self.windows for p in self.prompts(query, window, images)]
            answers = self._answers(asked, self.description)
            by_window = answers.reshape(len(self.windows), -1, answers.shape[1])
            for window, new in zip(self.windows, by_window, strict=True):
                filled[images, window.target] = new[:, : _length(window)]
        return filled

    @property
    def _size(self) -> int:
        return max(map(_length, self.windows), default=1)

    def _answers(
        self, prompts: list[list[int]], description: str, cache: PrefixCache | None = None
    ) -> np.ndarray:
        answers = self.engine.generate(
            prompts,
            self._size,
            vocabulary=list(self.allowed),
            prefix_cache=cache,
            description=description,
        )
        return np.asarray(answers, np.int32)


def _length(window: Window) -> int:
    return window.target.stop - window.target.start


def _repeated(ids: tuple[int, ...], *shape: int) -> Int[np.ndarray, "*shape tokens"]:
    return np.broadcast_to(np.asarray(ids, np.int32), (*shape, len(ids)))
