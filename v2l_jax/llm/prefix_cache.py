"""Prefixes that are computed before the rest of their prompts is known."""

import dataclasses
from collections.abc import Mapping, Sequence

from v2l_jax.llm.llama import KVCache
from v2l_jax.llm.prompt_batches import Prompt


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of prefixes, from `LLMEngine.cache_prefixes`.

    Attributes:
      rows: which row of the cache holds a prefix, by its token ids.
      cache: [layers, rows, length, …].
    """

    rows: Mapping[tuple[int, ...], int]
    cache: KVCache

    def cut(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        """Cuts each prompt behind the longest prefix that is here; at least one token stays in the
        suffix.

        Raises:
          ValueError: a prompt begins with none of them.
        """
        lengths = sorted({len(prefix) for prefix in self.rows}, reverse=True)
        return [_cut(tuple(prompt), lengths, self.rows) for prompt in prompts]


def _cut(
    prompt: tuple[int, ...], lengths: Sequence[int], rows: Mapping[tuple[int, ...], int]
) -> Prompt:
    for length in lengths:
        if length < len(prompt) and prompt[:length] in rows:
            return Prompt(prompt[:length], prompt[length:])
    raise ValueError(
        f"no cached prefix begins the prompt {list(prompt[:8])}… of {len(prompt)} tokens"
    )
