"""Which tokens may come next when the answer must be one of a few given token sequences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from v2l_jax.errors import DataError


class TokenTrie(NamedTuple):
    """Allowed continuations of a batch of prompts, as arrays; node 0 is the root, a node without
    children ends the walk.

    Attributes:
      tokens: int32 [batch, nodes, children], tokens allowed at a node, ascending; -1 fills.
      children: int32 [batch, nodes, children], the node each token leads to.
      answers: int32 [batch, nodes], the candidate that a leaf stands for; -1 elsewhere.
    """

    tokens: np.ndarray
    children: np.ndarray
    answers: np.ndarray


def common_start(candidates: Sequence[Sequence[int]]) -> int:
    """How many first tokens all candidates share, leaving at least one of each."""
    shortest = min(map(len, candidates)) - 1
    return next((i for i in range(shortest) if len({c[i] for c in candidates}) > 1), shortest)


def end_ambiguous(candidates: Sequence[Sequence[int]], end_id: int | None) -> list[tuple[int, ...]]:
    """Appends the end token to candidates that others begin with, so that ending competes with
    going on.

    Raises:
      DataError: an empty or repeated candidate, or no end token where one is needed.
    """
    sequences = [tuple(c) for c in candidates]
    if not all(sequences) or len(set(sequences)) < len(sequences):
        raise DataError(
            f"candidates {sequences} must be different and not empty; check the class names' tokens"
        )
    starts = {c[:i] for c in sequences for i in range(1, len(c))}
    if end_id is None and starts & set(sequences):
        raise DataError(
            "a candidate is the beginning of another: pass end_id, the token that ends an answer"
        )
    return [(*c, end_id) if c in starts else c for c in sequences]


def build_tries(candidates: Sequence[Sequence[Sequence[int]]]) -> tuple[TokenTrie, int]:
    """Builds one trie a prompt, cut where one candidate remains, and pads them to common
    power-of-two sizes.

    Args:
      candidates: for each prompt, different token sequences none of which begins another.

    Returns:
      The tries, and the most decisions any walk takes (1: the first token decides).
    """
    walks = [_decisions(prompt) for prompt in candidates]
    shape = (
        max(len(nodes) for nodes, _ in walks),
        max(len(n) for nodes, _ in walks for n in nodes),
    )
    nodes, children = (1 << (size - 1).bit_length() for size in shape)
    trie = TokenTrie(
        np.full((len(walks), nodes, children), -1, np.int32),
        np.zeros((len(walks), nodes, children), np.int32),
        np.full((len(walks), nodes), -1, np.int32),
    )
    for row, (table, answers) in enumerate(walks):
        for node, edges in enumerate(table):
            for i, (token, child) in enumerate(sorted(edges.items())):
                trie.tokens[row, node, i], trie.children[row, node, i] = token, child
        for node, answer in answers.items():
            trie.answers[row, node] = answer
    return trie, max(_depth(table) for table, _ in walks)


def _decisions(candidates: Sequence[Sequence[int]]) -> tuple[list[dict[int, int]], dict[int, int]]:
    """Nodes as {token: child}, and {leaf: candidate}."""
    nodes: list[dict[int, int]] = [{}]
    answers = {}
    open_nodes = [(0, 0, list(range(len(candidates))))]
    while open_nodes:
        node, depth, below = open_nodes.pop()
        if len(below) == 1 and node:
            answers[node] = below[0]
            continue
        for token in sorted({candidates[i][depth] for i in below}):
            nodes[node][token] = len(nodes)
            open_nodes.append(
                (len(nodes), depth + 1, [i for i in below if candidates[i][depth] == token])
            )
            nodes.append({})
    return nodes, answers


def _depth(nodes: list[dict[int, int]], node: int = 0) -> int:
    return 1 + max(_depth(nodes, child) for child in nodes[node].values()) if nodes[node] else 0
