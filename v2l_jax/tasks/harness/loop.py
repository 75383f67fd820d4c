"""The loop that tasks share: settings become prompts, all are checked to fit, then each setting is
asked, scored and recorded.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from v2l_jax.errors import DataError
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.report.tables import with_fields
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet, Segments
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness.answers import Answering
from v2l_jax.tasks.harness.prompts import Prompt, encode

Setting = dict[str, Scalar]


@dataclasses.dataclass(frozen=True)
class Questions:
    """What one setting asks.

    Attributes:
      label: the setting in words, for progress and errors.
      prompts: a prompt a question.
      answering: how they are answered.
      score: answers, one a prompt → the rows of the setting.
    """

    label: str
    prompts: Sequence[Prompt]
    answering: Answering
    score: Callable[[list[str]], Sequence[Result]]


class Writer:
    """The images of a task as the run's representation writes them, under each control."""

    def __init__(self, run: Run, images: ImageSet):
        self._run, self._images = run, images
        self._written: dict[tuple[str, int], Sequence[Segments]] = {}

    def __call__(self, control: str, budget: int) -> Sequence[Segments]:
        """The segments of each image; `control` and `budget` are as in `representations`."""
        if (control, budget) not in self._written:
            shown = representation(self._run.config, control)
            shown.prepare(self._run, self._images, budget)
            self._written[control, budget] = shown.segments(self._run, self._images, budget)
        return self._written[control, budget]


def measure(
    run: Run, task: str, missing: Sequence[Setting], questions: Callable[[Setting], Questions]
) -> None:
    """Asks, scores and records every missing setting; nothing is asked before all prompts are
    checked to fit.

    Args:
      run: networks, images and folder.
      task: its name.
      missing: settings without rows.
      questions: what a setting asks; called twice for each, so that prompts need not be kept.

    Raises:
      DataError: settings have prompts that do not fit the model's context; all are named.
    """
    check_lengths(run, map(questions, missing))
    for setting in missing:
        asked = questions(setting)
        run.record(task, setting, asked.score(answers(run, asked)))


def check_lengths(run: Run, groups: Iterable[Questions]) -> None:
    """Raises DataError that names every group with prompts that do not fit the model's context,
    answer included.
    """
    problems, tokenizer = [], run.llm.tokenizer
    for asked in groups:
        ids = [encode(tokenizer, prompt, run.engine) for prompt in asked.prompts]
        try:
            run.engine.check_lengths(ids, asked.answering.longest(tokenizer))
        except DataError as error:
            problems.append(f"{asked.label}: {error}")
    if problems:
        raise DataError("; ".join(problems))


def with_representation(results: Iterable[Result]) -> list[Result]:
    """Rows for a table with the field "representation", which those of earlier versions lack; they
    were measured with V2L's words.
    """
    return [
        r if "representation" in r.measured_on else with_fields(r, representation="v2l_words")
        for r in results
    ]


def answers(run: Run, asked: Questions) -> list[str]:
    """The language model's answers to one group of questions."""
    return asked.answering.answer(run.engine, run.llm.tokenizer, asked.prompts, asked.label)
