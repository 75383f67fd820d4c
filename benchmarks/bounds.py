"""Operations and bytes that answering prompts takes: what a perfect engine would still have to
do.
"""

from collections.abc import Sequence

from v2l_jax.llm.costs import forward_flops, matrix_parameters
from v2l_jax.llm.llama_config import LlamaConfig


def flops(config: LlamaConfig, lengths: Sequence[int], new_tokens: int) -> float:
    """Multiply-adds × 2 of answering prompts, each by itself.

    Args:
      config: sizes of the language model.
      lengths: tokens of each prompt.
      new_tokens: of an answer; the last one is never fed back.

    Returns:
      All projections of every token fed, its attention to every token up to itself, and the logits
      of the new tokens.
    """
    return sum(forward_flops(config, n + new_tokens - 1, new_tokens) for n in lengths)


def distinct_share(prompts: Sequence[Sequence[int]]) -> float:
    """Share of the prompts' tokens that no other prompt has after the same tokens: what is left if
    all shared work is shared.
    """
    ordered = sorted(map(tuple, prompts))
    shared = sum(_common_start(a, b) for a, b in zip(ordered, ordered[1:]))
    return 1 - shared / sum(map(len, ordered))


def decode_bytes(config: LlamaConfig, prompts: int, length: float, bytes_per_number: int) -> float:
    """Bytes that one decoding step of a batch reads: every matrix once, and the keys and values of
    every row.

    Args:
      config: sizes of the language model.
      prompts: rows of the batch.
      length: mean tokens that a row holds.
      bytes_per_number: of weights, keys and values.
    """
    weights = matrix_parameters(config) + config.vocab_size * config.hidden_size
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * length * prompts
    return (weights + cache) * bytes_per_number


def _common_start(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
