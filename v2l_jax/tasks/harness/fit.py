"""What is known of a prompt's length before anything runs."""

from ml_collections import ConfigDict

from v2l_jax.errors import DataError
from v2l_jax.representations.base import Ids, Segments
from v2l_jax.run import loading
from v2l_jax.tasks.harness.prompts import Prompt, encode


def least_written(config: ConfigDict, budget: int) -> Segments:
    """An image as short as it can be written: a token for each of V2L's words; nothing of other
    representations, whose length is not known beforehand.
    """
    return (Ids((0,) * budget),) if config.representation.kind == "v2l_words" else ()


def check_prompt_fits(config: ConfigDict, label: str, prompt: Prompt, answer: int = 1) -> None:
    """Checks that a task's prompt can fit the language model's context.

    Args:
      config: the whole experiment.
      label: what is asked, for the error.
      prompt: one with images as short as they can be.
      answer: tokens of the shortest answer.

    Raises:
      DataError: it does not fit; says by how much.
    """
    check_length_fits(config, label, len(encode(loading.text_tokenizer(config), prompt)) + answer)


def check_length_fits(config: ConfigDict, label: str, length: int) -> None:
    """As `check_prompt_fits`, of a prompt and answer of `length` tokens."""
    limit = loading.context_length(config)
    if length > limit:
        raise DataError(
            f"{label}: a prompt has at least {length} tokens, answer included, but {config.llm} "
            f"reads {limit}; use fewer examples or fewer words an image, or another language model"
        )
