"""What may be written, as a machine of few states: from each, some tokens, each of which leads to
the next state. A language model that decodes under it writes nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from v2l_jax.llm import token_trie


class Grammar(NamedTuple):
    """The states of a machine; writing begins at state 0, and ends in a state without tokens.

    Attributes:
      tokens: int32 [states, choices], tokens allowed in a state; -1 fills.
      following: int32 [states, choices], the state that each leads to.
    """

    tokens: Int[np.ndarray, "states choices"]
    following: Int[np.ndarray, "states choices"]


def repeated(fields: Sequence[Sequence[Sequence[int]]], ends: Sequence[int] = ()) -> Grammar:
    """A list of records, each made of the same fields one after another.

    Args:
      fields: for each field the token ids of everything it may hold.
      ends: tokens that may stand where a record could begin, and end the list; without any it goes
        on for ever.

    Raises:
      DataError: a field holds something twice, something empty, or something that another begins
        with.
    """
    states: list[list[tuple[int, int]]] = []
    starts: list[int] = []
    for number, choices in enumerate(fields):
        nodes = _whole(token_trie.end_ambiguous(choices, None))
        starts.append(len(states))
        # a child of -1 ends the field: it becomes the start of the next one below
        base = len(states)
        states += [[(t, child + base if child >= 0 else -1 - number) for t, child in node.items()]
                   for node in nodes]  # fmt: skip
    after = starts[1:] + starts[:1]
    states = [[(t, n if n >= 0 else after[-1 - n]) for t, n in node] for node in states]
    if ends:
        states[0] += [(token, len(states)) for token in ends]
        states.append([])
    width = max(map(len, states))
    tokens = np.full((len(states), width), -1, np.int32)
    following = np.zeros((len(states), width), np.int32)
    for row, node in enumerate(states):
        for column, (token, to) in enumerate(sorted(node)):
            tokens[row, column], following[row, column] = token, to
    return Grammar(tokens, following)


def _whole(sequences: Sequence[Sequence[int]]) -> list[dict[int, int]]:
    """The trie of sequences: for each node its tokens with their child; -1 where a sequence is
    whole.
    """
    nodes: list[dict[int, int]] = [{}]
    for sequence in sequences:
        at = 0
        for token in sequence[:-1]:
            if token not in nodes[at]:
                nodes[at][token] = len(nodes)
                nodes.append({})
            at = nodes[at][token]
        nodes[at][sequence[-1]] = -1
    return nodes
