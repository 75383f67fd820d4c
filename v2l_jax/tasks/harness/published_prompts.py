"""Few-shot prompts as the published code puts them together: of pieces that are each encoded alone
(zh460045050/V2L-Tokenizer, eval_understanding.py).

With a SentencePiece model every piece so begins with a "▁" of its own. The instruction opens a
bracket before each name, and no line ends after an answer. `config.published` asks for them.
"""

from collections.abc import Sequence

from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.representations.base import Ids, Segments, Text
from v2l_jax.tasks.harness.prompts import Prompt

MOST_STEPS = 16
"""Tokens that the published loop writes."""


def instruction(names: Sequence[str]) -> str:
    """`… is one of ['a' or ['b']`, the names sorted."""
    listed = " or ".join(f"['{name}'" for name in sorted(names))
    return f"For each of the following input output pairs, output is one of {listed}]\n"


def pieces(
    tokenizer: TextTokenizer,
    shots: Sequence[tuple[Segments, str]],
    query: Segments,
    names: Sequence[str],
    stated: bool,
    repetitions: int,
) -> tuple[Prompt, Prompt]:
    """A prompt's examples and its query.

    Args:
      tokenizer: the language model's.
      shots: what is written of each example, and its class name, in the order shown.
      query: what is written of the image to be named.
      names: the answers.
      stated: whether the instruction stands first; else nothing does but the begin token.
      repetitions: how often the whole list of examples is shown again.
    """
    alone = lambda text: Ids(tuple(tokenizer.encode(text)))
    examples: Prompt = ()
    for image, name in shots:
        examples += (*_input(alone, image), alone(name))
    first = (alone(instruction(names)),) if stated else ()
    return first + examples * (repetitions + 1), _input(alone, query)


def _input(alone, image: Segments) -> Prompt:
    """An image up to where its answer begins; its words are one piece."""
    words = "".join(segment.text for segment in image if isinstance(segment, Text))
    others = tuple(segment for segment in image if not isinstance(segment, Text))
    return (alone("###\nInput: < "), alone(words), *others, alone(" >\nOutput: "))


def underscored(name: str) -> str:
    """A class name as ImageNet's list writes it, such as great_white_shark."""
    return name.replace(" ", "_")


def name_steps(tokenizer: TextTokenizer, names: Sequence[str]) -> list[list[int]]:
    """The ids that the published mask permits at each step: the i-th of any name that is encoded
    alone, with the end token after its last.
    """
    spelled = [[*tokenizer.encode(name), tokenizer.eos_id] for name in names]
    longest = min(max(map(len, spelled)), MOST_STEPS)
    return [sorted({ids[i] for ids in spelled if len(ids) > i}) for i in range(longest)]
