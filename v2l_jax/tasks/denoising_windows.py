"""Five denoising tasks: a frozen language model restores a picture's local words from examples (Zhu
et al. 2024, Table 4).

A picture's words are restored a window at a time, in raster order. The prompt of a window holds
examples and a query (SPEC 1.4). Filling a hole (in- and outpainting), an example's input are the
words before the window, and what has been restored is the input of later windows; in the other
tasks it is the damaged picture's words at the window itself, and no window depends on another.

The published protocol leaks the answer. Its examples are copies of the picture's own true words, at
the very positions asked for, with some of them replaced at random: half in the first example, a
quarter in the last. Each true word thus stands unchanged in most of the ten example outputs, and
`vote` reads it off without a language model. What the model itself knows of pictures shows where
examples are another picture's, or there are none.

Where the published code departs from the paper, an option here has the code's value by default:
- rates are shares of all words, the global ones counted, yet only local ones are replaced
  (`counted_globals`).
Where it has no consequence, it is not followed: the sequence that contexts are cut from begins with
the global words there, but no context of the published tasks reaches back so far; here it begins
with the first local word, and a context that would reach beyond is shorter.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.corruptions import Corruption, hole
from v2l_jax.errors import ConfigError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.prefix_cache import PrefixCache
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.progress import progress_bar

RATES = (0.50, 0.47, 0.44, 0.41, 0.38, 0.35, 0.32, 0.29, 0.26, 0.23)
FILLING = ("inpainting", "outpainting")
"""Corruptions whose windows follow each other: predictions are the context of later windows."""

_PROMPTS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is asked in one prompt.

    Attributes:
      window: m, words that are predicted at once.
      context: n, words before the window that an input shows, filling a hole.
      rates: share of words that is replaced in each example, in the order shown.
      counted_globals: global words that the rates count beside the local ones; the published code's
        21 turn 50 % of 256 into 138 replaced words. 0 takes the paper at its word.
    """

    window: int = 2
    context: int = 16
    rates: tuple[float, ...] = RATES
    counted_globals: int = 21

    def replaced(self, positions: int) -> tuple[int, ...]:
        """How many of a picture's words each example replaces."""
        return tuple(
            min(int(rate * (positions + self.counted_globals)), positions) for rate in self.rates
        )


@dataclasses.dataclass(frozen=True)
class PromptPieces:
    """Token ids of a prompt's fixed texts, each encoded by itself, as published."""

    instruction: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]

    @classmethod
    def encode(cls, tokenizer: TextTokenizer, window: int) -> "PromptPieces":
        """The published texts in the tokens of one language model."""
        return cls(
            tuple(
                tokenizer.encode_prompt(
                    f"Learning a new language and predict the {window} tokens following the examples.\n"
                )
            ),
            tuple(tokenizer.encode("###\nInput: < ")),
            tuple(tokenizer.encode(" >\nOutput: ")),
        )


@dataclasses.dataclass(frozen=True)
class LocalVocabulary:
    """Rows of the local codebook ⇄ token ids of the language model.

    Attributes:
      token_ids: the token of each row; all different.
    """

    token_ids: Int[np.ndarray, " words"]

    @classmethod
    def of(cls, codebook: Codebook) -> "LocalVocabulary":
        """The tokens of a codebook's words.

        Raises:
          ConfigError: a word is not one token, or two words are the same.
        """
        longer = [
            text
            for text, ids in zip(codebook.texts, codebook.token_ids, strict=True)
            if len(ids) != 1
        ]
        if longer:
            raise ConfigError(
                f"{len(longer)} words of the local codebook are not one token each (such as {longer[0]!r}); run the codebook job again"
            )
        token_ids = np.asarray([ids[0] for ids in codebook.token_ids], np.int32)
        if len(np.unique(token_ids)) < len(token_ids):
            raise ConfigError(
                "two words of the local codebook are the same token; run the codebook job again"
            )
        return cls(token_ids)

    def rows(self, token_ids: Integer[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Inverse of `token_ids[rows]`; every id must be a word's."""
        order = np.argsort(self.token_ids)
        return order[np.searchsorted(self.token_ids, token_ids, sorter=order)].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Words of the example pictures of each prompt, as rows of the local codebook.

    Attributes:
      inputs: of the damaged picture.
      outputs: of the true picture, with the same words replaced at the same positions.
    """

    inputs: Int[np.ndarray, "images examples positions"]
    outputs: Int[np.ndarray, "images examples positions"]

    def of_images(self, order: Sequence[int] | Int[np.ndarray, " images"]) -> "Examples":
        """Image i gets the examples of image `order[i]`."""
        return Examples(self.inputs[np.asarray(order)], self.outputs[np.asarray(order)])

    def without(self) -> "Examples":
        """No examples: prompts with the instruction and the query alone."""
        return Examples(self.inputs[:, :0], self.outputs[:, :0])


def draw_examples(
    true: Int[np.ndarray, "images h w"],
    shown: Int[np.ndarray, "images h w"],
    num_words: int,
    protocol: Protocol,
    seed: int,
) -> Examples:
    """Replaces words at random: image i's examples depend on its words, `seed` and i alone.

    Args:
      true: local words of the pictures.
      shown: local words of the damaged pictures; the true ones where there is a hole to fill.
      num_words: rows of the local codebook.
      protocol: how many examples, and how much of them is replaced.
      seed: of the random positions and words.
    """
    images, positions = len(true), true[0].size
    shape = (images, len(protocol.rates), positions)
    outputs, inputs = (
        np.broadcast_to(words.reshape(images, 1, positions), shape).astype(np.int32)
        for words in (true, shown)
    )
    for image in range(images):
        rng = np.random.default_rng((seed, image))
        for example, count in enumerate(protocol.replaced(positions)):
            where = rng.permutation(positions)[:count]
            inputs[image, example, where] = outputs[image, example, where] = rng.integers(
                num_words, size=count
            )
    return Examples(inputs, outputs)


def windows(missing: Bool[np.ndarray, " positions"], size: int) -> list[slice]:
    """Where the windows lie: from each missing position that none covers yet, `size` positions on,
    up to the last of all.

    A window may reach beyond the hole where `size` does not divide its width; what it says there
    counts too, as published.
    """
    found: list[slice] = []
    for start in np.flatnonzero(missing).tolist():
        if not found or start >= found[-1].stop:
            found.append(slice(start, min(start + size, len(missing))))
    return found


def sources_and_targets(
    corruption: Corruption, grid: tuple[int, int], protocol: Protocol
) -> list[tuple[slice, slice]]:
    """For each window, in order: the positions that inputs show, and those that are predicted.

    Args:
      corruption: the task.
      grid: height and width in words.
      protocol: sizes of windows and contexts.
    """
    targets = windows(hole(corruption, *grid).reshape(-1), protocol.window)
    if corruption not in FILLING:
        return [(target, target) for target in targets]
    return [
        (slice(max(target.start - protocol.context, 0), target.start), target) for target in targets
    ]


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
        source: slice,
        target: slice,
        images: slice = slice(None),
    ) -> list[list[int]]:
        """One window's prompt for every image, or some.

        Args:
          query: the picture to be restored.
          source: positions that inputs show.
          target: positions that outputs show.
          images: which images.
        """
        shown = query[images, source]
        before, after = (
            _repeated(ids, len(shown)) for ids in (self.pieces.input, self.pieces.output)
        )
        return np.concatenate(
            [self.prefixes(source, target, images), before, shown, after], axis=-1
        ).tolist()

    def prefixes(
        self, source: slice, target: slice, images: slice = slice(None)
    ) -> Int[np.ndarray, "images tokens"]:
        """What the prompts begin with, whatever the query: instruction and examples; arguments as
        for a call.
        """
        inputs, outputs = self.inputs[images, :, source], self.outputs[images, :, target]
        before, after = (
            _repeated(ids, *inputs.shape[:2]) for ids in (self.pieces.input, self.pieces.output)
        )
        examples = np.concatenate([before, inputs, after, outputs], axis=-1)
        return np.concatenate(
            [_repeated(self.pieces.instruction, len(inputs)), examples.reshape(len(inputs), -1)],
            axis=-1,
        )


def _repeated(ids: tuple[int, ...], *shape: int) -> Int[np.ndarray, "*shape tokens"]:
    return np.broadcast_to(np.asarray(ids, np.int32), (*shape, len(ids)))


def restore(
    engine: LLMEngine,
    pieces: PromptPieces,
    vocabulary: LocalVocabulary,
    shown: Int[np.ndarray, "images h w"],
    examples: Examples,
    corruption: Corruption,
    protocol: Protocol = Protocol(),
    description: str = "denoising",
) -> Int[np.ndarray, "images h w"]:
    """Asks the language model for every missing word of every picture, greedily, among the words of
    the local codebook.

    Filling a hole, the windows of one picture follow each other and all pictures go in step;
    otherwise all windows of all pictures are one batch.

    Args:
      engine: the frozen language model.
      pieces: the prompts' fixed texts, in its tokens.
      vocabulary: the local codebook, in its tokens.
      shown: local words of the damaged pictures; in a hole they are not looked at.
      examples: what each picture's prompts show before the query.
      corruption: where words are missing, and what inputs show.
      protocol: sizes of windows and contexts.
      description: for the progress bar.

    Returns:
      `shown`, with the missing words as predicted.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    where = sources_and_targets(corruption, shown.shape[1:], protocol)
    prompts = WindowPrompts(
        pieces, vocabulary.token_ids[examples.inputs], vocabulary.token_ids[examples.outputs]
    )
    query = vocabulary.token_ids[shown].reshape(len(shown), -1)
    allowed = np.sort(vocabulary.token_ids).tolist()

    def predict(
        questions: list[list[int]], description: str, prefix_cache: PrefixCache | None = None
    ) -> np.ndarray:
        options = dict(vocabulary=allowed, prefix_cache=prefix_cache, description=description)
        return np.asarray(engine.generate(questions, protocol.window, **options), np.int32)

    if corruption in FILLING:
        engine.check_lengths(
            [prompts(query, source, target, slice(1))[0] for source, target in where],
            protocol.window,
        )
        restored = _restore_in_order(engine, predict, prompts, query, where, description)
    else:
        restored = _restore_at_once(predict, prompts, query, where, description)
    return vocabulary.rows(restored).reshape(shown.shape)


_Predict = Callable[..., np.ndarray]
_Windows = list[tuple[slice, slice]]


def _restore_in_order(
    engine: LLMEngine,
    predict: _Predict,
    prompts: WindowPrompts,
    query: np.ndarray,
    where: _Windows,
    description: str,
) -> np.ndarray:
    """A window of all pictures at a time; what is predicted is the source of later windows.

    Only a prompt's end depends on what was predicted: the examples before it are computed for
    several windows at once.
    """
    restored = query.copy()
    longest = max((prompts.prefixes(*window, slice(1)).size for window in where), default=1)
    at_once = max(1, engine.token_budget // (longest * len(query)))
    for index, (source, target) in enumerate(progress_bar(where, description, "window")):
        if index % at_once == 0:
            cache = engine.cache_prefixes(
                [
                    p
                    for window in where[index : index + at_once]
                    for p in prompts.prefixes(*window).tolist()
                ]
            )
        restored[:, target] = predict(prompts(restored, source, target), "", cache)[
            :, : target.stop - target.start
        ]
    return restored


def _restore_at_once(
    predict: _Predict, prompts: WindowPrompts, query: np.ndarray, where: _Windows, description: str
) -> np.ndarray:
    """All windows of all pictures; in several calls only where so many prompts would fill the
    host's memory.
    """
    restored = query.copy()
    step = max(1, _PROMPTS_AT_ONCE // len(where))
    for images in (slice(first, first + step) for first in range(0, len(query), step)):
        questions = [prompt for window in where for prompt in prompts(query, *window, images)]
        words = predict(questions, description)
        for (_, target), new in zip(
            where, words.reshape(len(where), -1, words.shape[1]), strict=True
        ):
            restored[images, target] = new[:, : target.stop - target.start]
    return restored


def vote(
    shown: Int[np.ndarray, "images h w"], examples: Examples, corruption: Corruption
) -> Int[np.ndarray, "images h w"]:
    """What the examples give away: the missing words as most of the example outputs have them,
    without a language model.

    Of equally frequent words, the one of the last example counts, where the fewest are replaced.
    """
    outputs = examples.outputs[:, ::-1]
    votes = (outputs[:, :, None] == outputs[:, None]).sum(2)
    winner = np.take_along_axis(outputs, votes.argmax(1)[:, None], axis=1).reshape(shown.shape)
    return np.where(hole(corruption, *shown.shape[1:]), winner, shown)
