"""Few-shot classification by a frozen language model that only sees words (Zhu et al. 2024, Table
1).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from v2l_jax.data.episodes import Episode
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.tasks.prompts import FewShotPrompt, Words, answer_text, few_shot_prompt, query_text

CONTENT_FREE = ("word",)
"""Queries without content, whose answers show the prior of a prompt's classes (Zhao et al. 2021,
section 4.2).

Zhao et al. take "N/A", "[MASK]" and the empty string; a neutral word is nearer to what images look
like in these prompts.
"""

FREE_TOKENS = 16  # of an answer without a mask, as published


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How an episode is asked and its answer read.

    Attributes:
      rule: "greedy" is the published rule: the answer is what greedy decoding writes, and it is
        right if it starts with the class name; with induction, step i may only write the i-th token
        of a class name. "constrained" is greedy decoding that can only spell a whole class name.
        "likelihood" takes the class name of the highest log-likelihood.
      calibrate: subtract each class's mean log-likelihood after content-free queries (contextual
        calibration, Zhao et al. 2021); needs the "likelihood" rule. The published way is False.
      induction: state the task first.
      repetitions: show the examples this many times more.
    """

    rule: Literal["greedy", "constrained", "likelihood"] = "likelihood"
    calibrate: bool = True
    induction: bool = True
    repetitions: int = 0


def make_prompts(
    episodes: Sequence[Episode], words: Sequence[Words], scoring: Scoring
) -> list[FewShotPrompt]:
    """The prompt of each episode; `words[i]` are the words of image `i` of the source that episodes
    index.
    """
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


def check_lengths(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    episodes: Sequence[Episode],
    words: Sequence[Words],
    scoring: Scoring,
) -> None:
    """Raises DataError, with their lengths, for prompts that do not fit the model's context, answer
    included.
    """
    questions = [
        tokenizer.encode_prompt(str(prompt)) for prompt in make_prompts(episodes, words, scoring)
    ]
    if scoring.rule == "greedy" and not scoring.induction:
        return engine.check_lengths(questions, FREE_TOKENS)
    names = {
        name: len(tokenizer.encode(answer_text(name))) + 1
        for episode in episodes
        for name in episode.class_names
    }
    return engine.check_lengths(
        questions, [max(names[name] for name in episode.class_names) for episode in episodes]
    )


def classify(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    episodes: Sequence[Episode],
    words: Sequence[Words],
    scoring: Scoring = Scoring(),
    description: str = "few-shot classification",
) -> list[str]:
    """Answers every episode.

    Args:
      engine: the frozen language model.
      tokenizer: its tokenizer.
      episodes: shots and query, as indices into `words`.
      words: each image's words, nearest first.
      scoring: how to ask and how to read the answer.
      description: for the progress bar.

    Returns:
      The answer to each episode: what the model wrote under the "greedy" rule, one of the class
        names under the others.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    prompts = make_prompts(episodes, words, scoring)
    questions = [tokenizer.encode_prompt(str(prompt)) for prompt in prompts]
    if scoring.rule == "greedy":
        return _written(engine, tokenizer, questions, episodes, scoring.induction, description)
    answers = [
        [tokenizer.encode(answer_text(name)) for name in episode.class_names]
        for episode in episodes
    ]
    if scoring.rule == "constrained":
        chosen = engine.choose(questions, answers, end_id=tokenizer.eos_id, description=description)
        return [episode.class_names[i] for episode, i in zip(episodes, chosen, strict=True)]
    blanks = CONTENT_FREE if scoring.calibrate else ()
    questions += [
        tokenizer.encode_prompt(prompt.shots + query_text((blank,)))
        for blank in blanks
        for prompt in prompts
    ]
    scores = engine.score_continuations(questions, answers * (1 + len(blanks)), description)
    by_question = [
        scores[start : start + len(episodes)] for start in range(0, len(scores), len(episodes))
    ]
    prior = [np.mean(s, axis=0) for s in zip(*by_question[1:])] if blanks else [0.0] * len(episodes)
    best = [int(np.argmax(score - p)) for score, p in zip(by_question[0], prior, strict=True)]
    return [episode.class_names[i] for episode, i in zip(episodes, best, strict=True)]


def _written(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    questions: Sequence[Sequence[int]],
    episodes: Sequence[Episode],
    induction: bool,
    description: str,
) -> list[str]:
    """What the published greedy decoding writes, without the space before it."""
    if induction:
        allowed = [name_mask(tokenizer, episode.class_names) for episode in episodes]
        ids = engine.generate(
            questions, max(map(len, allowed), default=0), allowed=allowed, description=description
        )
        texts = [tokenizer.decode(answer) for answer in ids]
    else:  # the published loop writes on after the line, which changes no answer's beginning
        line = StopStrings.build(tokenizer.token_bytes, ("\n",), tokenizer.special_ids)
        texts = engine.generate_text(
            questions, FREE_TOKENS, stop_strings=line, description=description
        )
    return [text.removeprefix(" ") for text in texts]


def name_mask(tokenizer: TextTokenizer, class_names: Sequence[str]) -> list[list[int]]:
    """The ids that the published code permits at each step: the i-th token of any class name, or
    the end after its last.

    Steps at which only the end is left write nothing, and are left out.
    """
    spelled = [[*tokenizer.encode(answer_text(name)), tokenizer.eos_id] for name in class_names]
    steps = [
        sorted({ids[i] for ids in spelled if len(ids) > i}) for i in range(max(map(len, spelled)))
    ]
    while steps[-1] == [tokenizer.eos_id]:
        steps.pop()
    return steps


def hits(
    answers: Sequence[str], episodes: Sequence[Episode], scoring: Scoring = Scoring()
) -> Bool[np.ndarray, " episodes"]:
    """Which answers name the query's class; a written answer need only start with the name, as
    published.
    """
    pairs = [
        (answer, episode.query.class_name)
        for answer, episode in zip(answers, episodes, strict=True)
    ]
    if scoring.rule == "greedy":
        return np.asarray([answer.startswith(name) for answer, name in pairs], bool)
    return np.asarray([answer == name for answer, name in pairs], bool)


def derangement(count: int, seed: int) -> Int[np.ndarray, " images"]:
    """For each image the number of another one; each number comes once. One image has no other and
    keeps its own.
    """
    order = np.random.default_rng(seed).permutation(count)
    shifted = np.empty(count, np.int64)
    shifted[order] = np.roll(order, 1)
    return shifted


def shuffle_words(words: Sequence[Words], seed: int) -> list[Words]:
    """The control: every image gets the words of another, by a derangement drawn from `seed`, so
    words tell nothing.
    """
    return [words[i] for i in derangement(len(words), seed)]
