"""Prompts as segments: the paper's input-output pairs, and how segments become token ids (Zhu et
al. 2024, section 3.4).
"""

import itertools
from collections.abc import Sequence

from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.representations.base import Ids, Segments, Slots, Text

Prompt = Segments
_NO_VECTORS = "this task asks in token ids, and the representation writes vectors"


def input_part(image: Segments) -> Prompt:
    """The part of a prompt that shows an image and ends where the answer begins."""
    return (Text("###\nInput: < "), *image, Text(" >\nOutput:"))


def answer_text(answer: str) -> str:
    """What the language model has to write after "Output:" to give `answer`."""
    return f" {answer}"


def answer_ids(tokenizer: TextTokenizer, answer: str, end: str = "") -> list[int]:
    """Token ids of an answer where it stands, after the prompt's "Output:".

    Args:
      tokenizer: the language model's.
      answer: the answer's text.
      end: what follows it.
    """
    return tokenizer.encode_inside(answer_text(answer) + end)


def example_part(image: Segments, answer: str) -> Prompt:
    """The part of a prompt that shows an image with its answer."""
    return (*input_part(image), Text(f"{answer_text(answer)}\n"))


def task_induction(names: Sequence[str]) -> Text:
    """The sentence that tells which answers there are; class names in sorted order."""
    listed = " or ".join(f"'{name}'" for name in sorted(names))
    return Text(f"For each of the following input output pairs, output is one of [{listed}]\n")


def encode(tokenizer: TextTokenizer, prompt: Prompt, engine: LLMEngine | None = None) -> list[int]:
    """Token ids of a prompt.

    Neighbouring texts are joined before they are split into tokens, so that the ids are those of
    the whole text where a prompt is text alone.

    Args:
      tokenizer: the language model's.
      prompt: segments.
      engine: gives ids to vectors.

    Raises:
      DataError: the prompt has vectors that the engine cannot take, or there is no engine.
    """
    ids: list[int] = []
    for position, (kind, group) in enumerate(itertools.groupby(prompt, type)):
        if kind is Slots:
            if engine is None:
                raise DataError(_NO_VECTORS)
            ids += [] if position else tokenizer.encode_prompt("")
            for segment in group:
                ids += engine.slot_ids(segment.vectors) if isinstance(segment, Slots) else ()
        elif kind is Text:
            text = "".join(segment.text for segment in group if isinstance(segment, Text))
            ids += tokenizer.encode_inside(text) if position else tokenizer.encode_prompt(text)
        else:
            ids += [] if position else tokenizer.encode_prompt("")
            ids += [i for segment in group if isinstance(segment, Ids) for i in segment.ids]
    return ids
