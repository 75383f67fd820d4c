"""Captioning by a frozen language model that only sees words: a few images with their captions,
then one without.

Zhu et al. 2024, Figure 5: ten shots, 21 global tokens an image (SPEC 1.4).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.tasks.prompts import Words, answer_text, query_text

STOP_STRINGS = ("\n", "###")
"""A caption is one line."""


@dataclasses.dataclass(frozen=True)
class CaptionEpisode:
    """Examples in the order of the prompt, and an image to caption.

    Attributes:
      shots: (example image, its caption).
      query: the image to caption.
    """

    shots: tuple[tuple[int, str], ...]
    query: int


def draw_episodes(
    queries: Sequence[Sequence[str]], examples: Sequence[Sequence[str]], shots: int, seed: int
) -> list[CaptionEpisode]:
    """Draws the examples of each query, without replacement, and one caption of each.

    An example that has a caption in common with the query is never drawn, so that no answer can be
    copied from the prompt.

    Args:
      queries: captions of each image to caption.
      examples: captions of each image that may be shown.
      shots: examples an episode.
      seed: query `i`'s draw is a function of (seed, i) and the examples alone.

    Raises:
      DataError: too few examples.
    """
    known = [{caption.casefold() for caption in captions} for captions in examples]
    episodes = []
    for query, captions in enumerate(queries):
        own = {caption.casefold() for caption in captions}
        others = [index for index, texts in enumerate(known) if not texts & own]
        if len(others) < shots:
            raise DataError(
                f"{shots} examples are asked, but there are {len(others)} images with another caption than the query's"
            )
        rng = np.random.default_rng([seed, query])
        drawn = rng.choice(others, size=shots, replace=False)
        episodes.append(
            CaptionEpisode(
                tuple((int(i), examples[i][rng.integers(len(examples[i]))]) for i in drawn), query
            )
        )
    return episodes


def caption_prompt(shots: Sequence[tuple[Words, str]], query: Words) -> str:
    """The prompt: `###\\nInput: < words >\\nOutput: caption\\n` for each shot, then the query
    without a caption.
    """
    return "".join(
        f"{query_text(words)}{answer_text(caption)}\n" for words, caption in shots
    ) + query_text(query)


def make_prompts(
    episodes: Sequence[CaptionEpisode], query_words: Sequence[Words], example_words: Sequence[Words]
) -> list[str]:
    """The prompt of each episode, whose indices are into the words of queries and of examples."""
    return [
        caption_prompt(
            [(example_words[index], caption) for index, caption in episode.shots],
            query_words[episode.query],
        )
        for episode in episodes
    ]


def write_captions(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    description: str = "captioning",
) -> list[str]:
    """Greedy captions, each cut at the end of its line.

    Args:
      engine: the frozen language model.
      tokenizer: its tokenizer.
      prompts: see `make_prompts`.
      max_new_tokens: the longest caption, in tokens.
      description: for the progress bar.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    answers = engine.generate_text(
        [tokenizer.encode_prompt(prompt) for prompt in prompts],
        max_new_tokens,
        stop_strings=StopStrings.build(tokenizer.token_bytes, STOP_STRINGS, tokenizer.special_ids),
        stop_ids=(tokenizer.eos_id,),
        description=description,
    )
    return [" ".join(answer.split()) for answer in answers]
