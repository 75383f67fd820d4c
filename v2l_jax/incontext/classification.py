"""Few-shot classification by a frozen language model that only sees words (Zhu et al. 2024, Table 1)."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from v2l_jax.data.episodes import Episode
from v2l_jax.incontext.decoding import Decoder
from v2l_jax.incontext.prompts import FewShotPrompt, Words, answer_text, few_shot_prompt, query_text
from v2l_jax.weights.text_tokenizers import TextTokenizer

CONTENT_FREE = ("word",)
"""Queries without content, whose answers show the prior of a prompt's classes (Zhao et al. 2021, section 4.2).

Zhao et al. take "N/A", "[MASK]" and the empty string; a neutral word is nearer to what images look like in these prompts.
"""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How an episode is asked and its answer read.

    Attributes:
      rule: "greedy" is the published rule, greedy decoding over the class names' tokens; "likelihood" takes the class
        name of the highest log-likelihood.
      calibrate: subtract each class's mean log-likelihood after content-free queries (contextual calibration, Zhao et al.
        2021); needs the "likelihood" rule. The published way is False.
      induction: state the task first.
      repetitions: show the examples this many times more.
    """

    rule: Literal["greedy", "likelihood"] = "likelihood"
    calibrate: bool = True
    induction: bool = True
    repetitions: int = 0


def make_prompts(episodes: Sequence[Episode], words: Sequence[Words], scoring: Scoring) -> list[FewShotPrompt]:
    """The prompt of each episode; `words[i]` are the words of image `i` of the source that episodes index."""
    return [
        few_shot_prompt(
            [(words[shot.index], shot.class_name) for shot in episode.shots],
            words[episode.query.index],
            episode.class_names,
            scoring.induction,
            scoring.repetitions,
        )
        for episode in episodes
    ]


def classify(
    decoder: Decoder,
    tokenizer: TextTokenizer,
    episodes: Sequence[Episode],
    words: Sequence[Words],
    scoring: Scoring = Scoring(),
    description: str = "few-shot classification",
) -> Int[np.ndarray, " episodes"]:
    """Answers every episode.

    Args:
      decoder: the frozen language model.
      tokenizer: its tokenizer.
      episodes: shots and query, as indices into `words`.
      words: each image's words, nearest first.
      scoring: how to ask and how to read the answer.
      description: for the progress bar.

    Returns:
      For each episode, the index in its `class_names` of the class the model chose.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    prompts = make_prompts(episodes, words, scoring)
    questions = [tokenizer.encode_prompt(str(prompt)) for prompt in prompts]
    answers = [[tokenizer.encode(answer_text(name)) for name in episode.class_names] for episode in episodes]
    if scoring.rule == "greedy":
        return decoder.choose(questions, answers, end_id=tokenizer.eos_id, description=description)
    blanks = CONTENT_FREE if scoring.calibrate else ()
    questions += [tokenizer.encode_prompt(prompt.shots + query_text((blank,))) for blank in blanks for prompt in prompts]
    scores = decoder.score_continuations(questions, answers * (1 + len(blanks)), description)
    by_question = [scores[start : start + len(episodes)] for start in range(0, len(scores), len(episodes))]
    prior = [np.mean(s, axis=0) for s in zip(*by_question[1:])] if blanks else [0.0] * len(episodes)
    return np.asarray([np.argmax(score - p) for score, p in zip(by_question[0], prior, strict=True)])


def hits(chosen: Int[np.ndarray, " episodes"], episodes: Sequence[Episode]) -> Bool[np.ndarray, " episodes"]:
    """Which answers name the query's class."""
    truth = [episode.class_names.index(episode.query.class_name) for episode in episodes]
    return np.asarray(chosen) == np.asarray(truth)


def shuffle_words(words: Sequence[Words], seed: int) -> list[Words]:
    """The control: every image gets the words of another, by a derangement drawn from `seed`, so words tell nothing."""
    order = np.random.default_rng(seed).permutation(len(words))
    shifted = np.empty(len(words), np.int64)
    shifted[order] = np.roll(order, 1)
    return [words[i] for i in shifted]
