"""Ways to read an answer off a language model: written, spelled by a mask, or chosen.

Prompts that are asked twice are answered once.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.tasks.harness.prompts import Prompt, answer_ids, encode

Names = Sequence[Sequence[str]]
"""For each prompt, the answers that it may get."""


@runtime_checkable
class Answering(Protocol):
    """How prompts are answered."""

    def longest(self, tokenizer: TextTokenizer) -> int | list[int]:
        """The most tokens of an answer, of all prompts or of each."""
        ...

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """Answers every prompt.

        Args:
          engine: the frozen language model.
          tokenizer: its tokenizer.
          prompts: what is asked.
          description: for the progress bar.

        Raises:
          DataError: a prompt does not fit the model's context.
        """
        ...


@dataclasses.dataclass(frozen=True)
class WrittenLine:
    """What greedy decoding writes, up to a stop string.

    Attributes:
      max_new_tokens: the longest answer, in tokens.
      stop_strings: what ends it.
      ends: whether the model's end token ends it too.
    """

    max_new_tokens: int
    stop_strings: tuple[str, ...] = ("\n",)
    ends: bool = True

    def longest(self, tokenizer: TextTokenizer) -> int:
        """`max_new_tokens`."""
        del tokenizer
        return self.max_new_tokens

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """The texts as they were written, with the space that they may begin with."""
        stop = StopStrings.build(tokenizer.token_bytes, self.stop_strings, tokenizer.special_ids)
        end: dict[str, Any] = {"stop_ids": (tokenizer.eos_id,)} if self.ends else {}

        def ask(ids: Sequence) -> Sequence[str]:
            return engine.generate_text(
                ids, self.max_new_tokens, stop_strings=stop, description=description, **end
            )

        return _once([tuple(encode(tokenizer, prompt, engine)) for prompt in prompts], ask)


@dataclasses.dataclass(frozen=True)
class MaskedNames:
    """The published greedy decoding under a mask: step i may only write the i-th token of a
    name.

    Attributes:
      names: for each prompt, what it may be answered.
      mask: token ids that each step permits, of some names.
    """

    names: Names
    mask: Callable[[TextTokenizer, Sequence[str]], list[list[int]]] | None = None

    def longest(self, tokenizer: TextTokenizer) -> list[int]:
        """Tokens of each prompt's longest name, and the end."""
        return _longest(tokenizer, self.names)

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """The texts as they were written."""
        mask = self.mask or name_mask
        asked = [
            (tuple(encode(tokenizer, prompt, engine)), tuple(map(tuple, mask(tokenizer, names))))
            for prompt, names in zip(prompts, self.names, strict=True)
        ]

        def ask(pairs: Sequence) -> list[str]:
            ids, masks = [ids for ids, _ in pairs], [mask for _, mask in pairs]
            longest = max(map(len, masks), default=0)
            written = engine.generate(ids, longest, allowed=masks, description=description)
            return [tokenizer.decode(answer) for answer in written]

        return _once(asked, ask)


@dataclasses.dataclass(frozen=True)
class SpelledNames:
    """Greedy decoding that can only spell a whole name."""

    names: Names

    def longest(self, tokenizer: TextTokenizer) -> list[int]:
        """Tokens of each prompt's longest name, and the end."""
        return _longest(tokenizer, self.names)

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """The names."""

        def ask(pairs: Sequence) -> Sequence[int]:
            ids, spelled = [ids for ids, _ in pairs], [answers for _, answers in pairs]
            chosen = engine.choose(ids, spelled, end_id=tokenizer.eos_id, description=description)
            return [int(i) for i in chosen]

        chosen = _once(_with_names(engine, tokenizer, prompts, self.names), ask)
        return [names[i] for names, i in zip(self.names, chosen, strict=True)]


@dataclasses.dataclass(frozen=True)
class LikeliestName:
    """The name of the highest log-likelihood.

    Attributes:
      names: for each prompt, what it may be answered.
      end: what must follow a name: with "\\n" "two" is no "two dogs".
      content_free: further lists of a prompt for each prompt, with a query without content; each
        name's mean log-likelihood after these is subtracted (contextual calibration, Zhao et al.
        2021).
    """

    names: Names
    end: str = ""
    content_free: Sequence[Sequence[Prompt]] = ()

    def longest(self, tokenizer: TextTokenizer) -> list[int]:
        """Tokens of each prompt's longest name, and the end."""
        return _longest(tokenizer, self.names, self.end)

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """The names."""
        asked = []
        for group in (prompts, *self.content_free):
            asked += _with_names(engine, tokenizer, group, self.names, self.end)

        def ask(pairs: Sequence) -> Sequence:
            ids, answers = [ids for ids, _ in pairs], [answers for _, answers in pairs]
            return engine.score_continuations(ids, answers, description)

        scores, count = _once(asked, ask), len(prompts)
        groups = [scores[start : start + count] for start in range(0, len(scores), count or 1)]
        prior = [np.mean(s, axis=0) for s in zip(*groups[1:])] if groups[1:] else [0.0] * count
        best = [int(np.argmax(s - p)) for s, p in zip(scores[:count], prior, strict=True)]
        return [names[i] for names, i in zip(self.names, best, strict=True)]


@dataclasses.dataclass(frozen=True)
class Given:
    """Answers that are known without a language model; there are no prompts."""

    answers: Sequence[str]

    def longest(self, tokenizer: TextTokenizer) -> int:
        """Nothing is written."""
        del tokenizer
        return 0

    def answer(
        self,
        engine: LLMEngine,
        tokenizer: TextTokenizer,
        prompts: Sequence[Prompt],
        description: str,
    ) -> list[str]:
        """The answers."""
        del engine, tokenizer, prompts, description
        return list(self.answers)


def name_mask(tokenizer: TextTokenizer, class_names: Sequence[str]) -> list[list[int]]:
    """The ids that the published code permits at each step: the i-th token of any class name, or
    the end after its last.

    Steps at which only the end is left write nothing, and are left out.
    """
    spelled = [[*answer_ids(tokenizer, name), tokenizer.eos_id] for name in class_names]
    steps = [
        sorted({ids[i] for ids in spelled if len(ids) > i}) for i in range(max(map(len, spelled)))
    ]
    while steps[-1] == [tokenizer.eos_id]:
        steps.pop()
    return steps


def _with_names(
    engine: LLMEngine,
    tokenizer: TextTokenizer,
    prompts: Sequence[Prompt],
    names: Names,
    end: str = "",
) -> list[tuple]:
    """Token ids of each prompt with those of its possible answers."""
    known: dict[Sequence[str], tuple] = {}
    for some in map(tuple, names):
        if some not in known:
            known[some] = tuple(tuple(answer_ids(tokenizer, name, end)) for name in some)
    return [
        (tuple(encode(tokenizer, prompt, engine)), known[tuple(some)])
        for prompt, some in zip(prompts, names, strict=True)
    ]


def _longest(tokenizer: TextTokenizer, names: Names, end: str = "") -> list[int]:
    different = {name for some in names for name in some}
    length = {name: len(answer_ids(tokenizer, name, end)) + 1 for name in different}
    return [max(length[name] for name in some) for some in names]


def _once(asked: Sequence[Hashable], ask: Callable[[Sequence], Sequence]) -> list:
    """What `ask` answers to each question, each different one asked once, in order of
    appearance.
    """
    different = list(dict.fromkeys(asked))
    answers = dict(zip(different, ask(different), strict=True))
    return [answers[question] for question in asked]
