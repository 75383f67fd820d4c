"""The paper's prompts, as text: a pure function of an episode's words (Zhu et al. 2024, section
3.4; SPEC 1.4).
"""

import dataclasses
from collections.abc import Sequence

Words = Sequence[str]


@dataclasses.dataclass(frozen=True)
class FewShotPrompt:
    """A few-shot classification prompt in two parts that join to the whole.

    Attributes:
      shots: task induction and examples; the same for every query that is asked after them.
      query: the image to be named, ending where the answer begins.
    """

    shots: str
    query: str

    def __str__(self) -> str:
        return self.shots + self.query


def join_words(words: Words) -> str:
    """An image's words as the prompt shows them: texts concatenated, as the published code does."""
    return "".join(words).strip()


def task_induction(class_names: Sequence[str]) -> str:
    """The sentence that tells which answers there are; class names in sorted order."""
    names = " or ".join(f"'{name}'" for name in sorted(class_names))
    return f"For each of the following input output pairs, output is one of [{names}]\n"


def few_shot_prompt(
    shots: Sequence[tuple[Words, str]],
    query: Words,
    class_names: Sequence[str],
    induction: bool = True,
    repetitions: int = 0,
) -> FewShotPrompt:
    """N-way K-shot classification (SPEC 1.4).

    Args:
      shots: (words, class name) of each example, in the order shown.
      query: words of the image to be named.
      class_names: the N answers.
      induction: whether the task is stated first.
      repetitions: how often the whole list of examples is shown again.
    """
    examples = "".join(
        f"###\nInput: < {join_words(words)} >\nOutput: {name}\n" for words, name in shots
    )
    return FewShotPrompt(
        shots=(task_induction(class_names) if induction else "") + examples * (repetitions + 1),
        query=query_text(query),
    )


def query_text(words: Words) -> str:
    """The part that shows an image and asks for its name."""
    return f"###\nInput: < {join_words(words)} >\nOutput:"


def answer_text(name: str) -> str:
    """What the language model has to write after "Output:" to give `name`."""
    return f" {name}"
