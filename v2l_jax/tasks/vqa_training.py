"""Questions with their answers as texts that a language model is fine-tuned on."""

from v2l_jax.data.questions import QuestionImages
from v2l_jax.errors import ConfigError
from v2l_jax.llm.training_texts import AnswerTexts, Asked
from v2l_jax.representations.base import ImageSet
from v2l_jax.run.run import Run
from v2l_jax.tasks import vqa
from v2l_jax.tasks.harness.learning import learnable
from v2l_jax.tasks.harness.prompts import answer_ids, encode

HELD_OUT = 20
"""Of so many images the questions of one are kept apart, for the loss that is logged."""


def training_texts(run: Run) -> AnswerTexts:
    """The questions that the set's examples are drawn from, none of those that are asked.

    Raises:
      ConfigError: several sets, or examples in the prompt.
      DataError: a text does not fit the model's context.
    """
    c, tokenizer = run.config.evaluate.vqa, run.llm.tokenizer
    if len(c.sets) != 1 or c.shots:
        raise ConfigError(
            "fine-tuning on questions wants one set and no examples: config.evaluate.vqa.sets is "
            f"{tuple(c.sets)} and config.evaluate.vqa.shots {c.shots}"
        )
    (name,) = c.sets
    asked, shown, _ = vqa.read_set(run.config, name)
    questions = QuestionImages(asked + shown)  # in one order with the evaluation's: one file
    written, features = learnable(run, ImageSet((f"vqa-{name}", questions)), c.tokens)
    number = {path: i for i, path in enumerate(questions.paths)}
    place = {path: i for i, path in enumerate(dict.fromkeys(q.image for q in shown))}
    rows: dict[str, list[Asked]] = {"train": [], "held_out": []}
    for question in shown:
        split = "held_out" if place[question.image] % HELD_OUT == 0 else "train"
        image = number[question.image]
        prompt = vqa.question_prompt((), vqa.Asked(written[image], question.text))
        ids = encode(tokenizer, prompt)
        rows[split].append(Asked(image, ids, answer_ids(tokenizer, question.answer, "\n")))
    return AnswerTexts(rows, features).checked(run.llm.model.config.context_length)
