"""What is known of a prompt's length before anything runs."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from v2l_jax.errors import DataError
from v2l_jax.representations import representation
from v2l_jax.representations.base import Ids, Segments, Text
from v2l_jax.run import loading
from v2l_jax.tasks.harness.prompts import Prompt, encode


def least_written(config: ConfigDict, budget: int) -> Segments:
    """An image as short as the run's representation can write it."""
    return representation(config).shortest(budget)


def check_prompts_fit(
    config: ConfigDict, label: str, prompts: Iterable[Prompt], answer: int = 1
) -> None:
    """Checks that a task's prompts can fit the language model's context: that with the longest
    text is looked at, since one that does not fit stops the task.

    Args:
      config: the whole experiment.
      label: what is asked, for the error.
      prompts: at least one, with images as short as they can be.
      answer: tokens of the shortest answer.

    Raises:
      DataError: it does not fit; says by how much.
    """
    longest = max(prompts, key=_size)
    length = len(encode(loading.text_tokenizer(config), longest))
    check_length_fits(config, label, length + answer)


def _size(prompt: Prompt) -> int:
    """Characters of the texts, and ids."""
    return sum(
        len(part.text) if isinstance(part, Text) else len(part.ids) if isinstance(part, Ids) else 0
        for part in prompt
    )


def check_length_fits(config: ConfigDict, label: str, length: int) -> None:
    """As `check_prompts_fit`, of a prompt and answer of `length` tokens."""
    limit = loading.context_length(config)
    if length > limit:
        raise DataError(
            f"{label}: a prompt has at least {length} tokens, answer included, but {config.llm} "
            f"reads {limit}; use fewer examples or fewer words an image, or another language model"
        )
