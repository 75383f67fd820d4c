"""The tasks that are timed, as token ids: each answered by the engine and, the published way, by a
loop in torch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol as Interface

import numpy as np

from benchmarks.torch_loop import TorchLoop
from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.data.corruptions import Corruption
from v2l_jax.data.episodes import draw_episodes
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.tasks.denoising import (
    FILLING,
    Options,
    prompt_pieces,
    replaced_words,
    restore,
    windows_of,
)
from v2l_jax.tasks.few_shot import Scoring, make_prompts
from v2l_jax.tasks.harness.answers import name_mask
from v2l_jax.tasks.harness.noised_examples import NoisedExamples
from v2l_jax.tasks.harness.prompts import encode
from v2l_jax.tasks.harness.windows import PromptPieces, Window, WindowPrompts

FEW_SHOT_TOKENS = 16  # new tokens of an answer in the published loop
GRID = 16  # words a side of a picture
_WORDS = {
    "cat": ("cat", "kitten", "tabby", "feline", "whiskers"),
    "dog": ("dog", "puppy", "hound", "terrier", "leash"),
    "pizza": ("pizza", "cheese", "crust", "pepperoni", "dough"),
    "steak": ("steak", "beef", "meat", "grill", "plate"),
    "sushi": ("sushi", "rice", "roll", "salmon", "seaweed"),
}


class Workload(Interface):
    """Prompts and how they are answered.

    Attributes:
      name: the task.
      unit: what is counted, "episodes" or "images".
      count: how many of them the measured work amounts to.
      prompts: token ids of all prompts.
      needed_tokens: new tokens of an answer that decide it.
    """

    name: str
    unit: str
    count: float
    prompts: list[list[int]]
    needed_tokens: int

    def ours(self, engine: LLMEngine) -> list[list[int]]:
        """Answers of the engine, what decides them."""
        ...

    def peer(self, loop: TorchLoop) -> list[list[int]]:
        """The same from the loop."""
        ...


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Few-shot classification with the published induction, mask and answer length.

    The engine stops where the mask leaves no choice; the loop writes all 16 tokens, as published.
    """

    name: str
    prompts: list[list[int]]
    masks: list[list[list[int]]]
    unit: str = "episodes"

    @classmethod
    def make(
        cls, tokenizer: TextTokenizer, ways: int, shots: int, episodes: int, vocabulary: int
    ) -> "FewShot":
        """Episodes over 60 made-up images a class, five words an image in an order of its own.

        Args:
          tokenizer: writes the prompts.
          ways, shots: of an episode.
          episodes: how many.
          vocabulary: ids are taken modulo the size of the language model's, for models that have no
            tokenizer.
        """
        rng = np.random.default_rng(0)
        names = sorted(_WORDS)
        labels = np.repeat(np.arange(len(names)), 60)
        words = [
            word_texts([f" {word}" for word in rng.permutation(_WORDS[names[label]])])
            for label in labels
        ]
        drawn = draw_episodes(labels, names, ways, shots, episodes, seed=0)
        prompts = [
            encode(tokenizer, prompt.whole)
            for prompt in make_prompts(drawn, words, Scoring(rule="greedy"))
        ]
        masks = [name_mask(tokenizer, episode.class_names) for episode in drawn]
        return cls(
            f"few-shot {ways}-way {shots}-shot",
            [[i % vocabulary for i in prompt] for prompt in prompts],
            [[sorted({i % vocabulary for i in step}) for step in mask] for mask in masks],
        )

    @property
    def count(self) -> float:
        """Episodes."""
        return len(self.prompts)

    @property
    def needed_tokens(self) -> int:
        """Steps at which the mask leaves a choice."""
        return max(map(len, self.masks))

    def ours(self, engine: LLMEngine) -> list[list[int]]:
        """Tokens of each answer up to where the mask ends."""
        return engine.generate(self.prompts, self.needed_tokens, allowed=self.masks)

    def peer(self, loop: TorchLoop) -> list[list[int]]:
        """The same tokens, the first of 16."""
        return [
            loop.generate(p, FEW_SHOT_TOKENS, mask)[: len(mask)]
            for p, mask in zip(self.prompts, self.masks)
        ]


@dataclasses.dataclass(frozen=True)
class Denoising:
    """A denoising task on pictures of random words.

    To measure it in minutes, pictures are smaller than 16×16 words: a quarter of the windows at
    8×8, each with a prompt of the same length. Rates count whole pictures.
    """

    name: str
    corruption: Corruption
    shown: np.ndarray
    examples: NoisedExamples
    pieces: PromptPieces
    vocabulary: SingleTokens
    unit: str = "images"

    @classmethod
    def make(
        cls,
        tokenizer: TextTokenizer,
        corruption: Corruption,
        images: int,
        grid: int,
        vocabulary: int,
    ) -> "Denoising":
        """Pictures of `grid` × `grid` words drawn from the whole vocabulary of the language
        model.
        """
        rng = np.random.default_rng(0)
        true, damaged = rng.integers(vocabulary, size=(2, images, grid, grid), dtype=np.int32)
        shown = true if corruption in FILLING else damaged
        pieces = prompt_pieces(tokenizer, Options().window)
        inside = {
            f.name: tuple(i % vocabulary for i in getattr(pieces, f.name))
            for f in dataclasses.fields(pieces)
        }
        counts = replaced_words(Options(), grid * grid)
        examples = NoisedExamples.draw(true, shown, vocabulary, counts, seed=0)
        words = SingleTokens(np.arange(vocabulary, dtype=np.int32))
        return cls(corruption, corruption, shown, examples, PromptPieces(**inside), words)

    @property
    def count(self) -> float:
        """Whole pictures' worth of windows."""
        return len(self.shown) * len(self._windows(self.shown.shape[1])) / len(self._windows(GRID))

    @property
    def needed_tokens(self) -> int:
        """Words of a window."""
        return Options().window

    @property
    def prompts(self) -> list[list[int]]:
        """Of all windows of all pictures, nothing restored."""
        query = self.shown.reshape(len(self.shown), -1)
        return [
            prompt
            for window in self._windows(self.shown.shape[1])
            for prompt in self._prompts(query, window)
        ]

    @property
    def first_window(self) -> list[list[int]]:
        """The prompts of one window of all pictures."""
        return self._prompts(
            self.shown.reshape(len(self.shown), -1), self._windows(self.shown.shape[1])[0]
        )

    def ours(self, engine: LLMEngine) -> list[list[int]]:
        """Words of the restored pictures, a window a row."""
        restored = restore(
            engine, self.pieces, self.vocabulary, self.shown, self.examples, self.corruption
        )
        return self._rows(restored.reshape(len(restored), -1))

    def peer(self, loop: TorchLoop) -> list[list[int]]:
        """The same, picture after picture, window after window."""
        restored = self.shown.reshape(len(self.shown), -1).copy()
        for image in range(len(restored)):
            query = restored if self.corruption in FILLING else restored.copy()
            for window in self._windows(self.shown.shape[1]):
                (prompt,) = self._prompts(query, window, slice(image, image + 1))
                target = window.target
                restored[image, target] = loop.generate(prompt, self.needed_tokens)[
                    : target.stop - target.start
                ]
        return self._rows(restored)

    @property
    def _prompts(self) -> WindowPrompts:
        return WindowPrompts(self.pieces, self.examples.inputs, self.examples.outputs)

    def _windows(self, grid: int) -> list[Window]:
        return windows_of(self.corruption, (grid, grid), Options())

    def _rows(self, restored: np.ndarray) -> list[list[int]]:
        return [
            words[target].tolist()
            for words in restored
            for _, target in self._windows(self.shown.shape[1])
        ]


def agreement(ours: Sequence[Sequence[int]], peer: Sequence[Sequence[int]]) -> float:
    """Share of equal answers."""
    return float(np.mean([list(a) == list(b) for a, b in zip(ours, peer, strict=True)]))
