"""Visual question answering by a frozen language model that only sees words (Zhu et al. 2024,
section 3.4, Fig. 5).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from v2l_jax.data.questions import Question
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.tasks.prompts import Words, answer_text, join_words

STOP_STRINGS = ("\n", "Condition:", "Question:")
"""An answer is a line; a model that goes on with another example has answered."""


class Asked(NamedTuple):
    """A question about an image as the prompt shows it.

    Attributes:
      words: the image's words, nearest first; None hides that there is an image.
      question: its text.
    """

    words: Words | None
    question: str


def question_prompt(shots: Sequence[tuple[Asked, str]], query: Asked) -> str:
    """`Condition: {words}. Question: {question} Answer: {answer}` lines, the last without its
    answer (SPEC 1.4).

    A question without its mark gets one; COCO-QA's have none. Without words the condition is left
    away.
    """
    lines = [_question_text(asked) + answer_text(answer) + "\n" for asked, answer in shots]
    return "".join(lines) + _question_text(query)


def _question_text(asked: Asked) -> str:
    condition = "" if asked.words is None else f"Condition: {join_words(asked.words)}. "
    question = asked.question.strip()
    return f"{condition}Question: {question}{'' if question.endswith('?') else '?'} Answer:"


def draw_shots(
    queries: Sequence[Question], pool: Sequence[Question], count: int, seed: int
) -> list[tuple[int, ...]]:
    """Examples for each query, drawn without replacement from the questions about other images.

    Args:
      queries: the questions to be answered; the i-th gets the same shots whatever follows it.
      pool: the questions that may be shown.
      count: shots of a query.
      seed: another seed gives other shots.

    Returns:
      For each query, indices into `pool` in the order of the prompt.

    Raises:
      DataError: a query has fewer than `count` questions about other images.
    """
    images = np.asarray([question.image for question in pool])
    return [
        tuple(np.random.default_rng([seed, i]).permutation(others)[:count].tolist())
        for i, others in enumerate(_about_other_images(queries, images, count))
    ]


def similar_shots(
    queries: Sequence[Question],
    pool: Sequence[Question],
    query_vectors: Float[np.ndarray, "queries dim"],
    pool_vectors: Float[np.ndarray, "pool dim"],
    count: int,
    seed: int,
) -> list[tuple[int, ...]]:
    """As `draw_shots`, but those whose question is most like the query's, the most similar last
    (Liu et al. 2022).

    Args:
      queries, pool, count: as in `draw_shots`.
      query_vectors, pool_vectors: of the questions' texts, L2-normalised; similarity is their dot
        product.
      seed: decides among questions that are equally similar, such as the same question about
        different images.

    Raises:
      DataError: as in `draw_shots`.
    """
    images = np.asarray([question.image for question in pool])
    chosen = []
    for i, others in enumerate(_about_other_images(queries, images, count)):
        shuffled = np.random.default_rng([seed, i]).permutation(others)
        # Rounding makes a tie of equal texts, whose vectors may differ in the last bits.
        similarity = np.round(pool_vectors[shuffled] @ query_vectors[i], 5)
        chosen.append(
            tuple(shuffled[np.argsort(-similarity, kind="stable")[:count]][::-1].tolist())
        )
    return chosen


def _about_other_images(
    queries: Sequence[Question], images: np.ndarray, count: int
) -> Iterator[np.ndarray]:
    """For each query, the pool's questions about other images; raises DataError for fewer than
    `count`.
    """
    for query in queries:
        others = np.flatnonzero(images != query.image)
        if len(others) < count:
            raise DataError(
                f"{count} examples were asked for, but only {len(others)} questions are about other images than {query.image}; "
                "ask for fewer shots or give more questions to show"
            )
        yield others


def make_prompts(
    queries: Sequence[tuple[Words | None, Question]],
    pool: Sequence[tuple[Words | None, Question]],
    shots: Sequence[Sequence[int]],
) -> list[str]:
    """The prompt of each query.

    Args:
      queries: words of the image, and the question.
      pool: the same for questions that may be shown; their most given answer is.
      shots: for each query, the shown ones as indices into `pool`.
    """
    shown = [(Asked(words, question.text), question.answer) for words, question in pool]
    return [
        question_prompt([shown[j] for j in chosen], Asked(words, question.text))
        for (words, question), chosen in zip(queries, shots, strict=True)
    ]


def answer_open(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 10,
    description: str = "answering",
) -> list[str]:
    """Open-ended answers, the published way: greedy decoding up to the end of the line.

    Args:
      engine: the frozen language model.
      tokenizer: its tokenizer.
      prompts: of `make_prompts`.
      max_new_tokens: the most tokens of an answer.
      description: for the progress bar.

    Returns:
      Each answer without the space around it.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    stop = StopStrings.build(tokenizer.token_bytes, STOP_STRINGS, tokenizer.special_ids)
    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    texts = engine.generate_text(
        ids,
        max_new_tokens,
        stop_strings=stop,
        stop_ids=(tokenizer.eos_id,),
        description=description,
    )
    return [text.strip() for text in texts]


def answer_closed(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    candidates: Sequence[str],
    description: str = "choosing answers",
) -> list[str]:
    """For each prompt the candidate of the highest log-likelihood; a candidate ends with the line,
    so "two" is no "two dogs".

    Args:
      engine, tokenizer, prompts, description: as in `answer_open`.
      candidates: different answers, at least one, the same for all prompts.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    endings = [tokenizer.encode(answer_text(candidate) + "\n") for candidate in candidates]
    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    scores = engine.score_continuations(ids, [endings] * len(ids), description)
    return [candidates[int(np.argmax(score))] for score in scores]
