"""What a generated answer may hold and where it ends, as arrays for the device."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from v2l_jax.errors import DataError
from v2l_jax.llm.stop_strings import StopStrings


class RowRules(NamedTuple):
    """What differs between the rows of a batch.

    Attributes:
      limits: int32 [batch], tokens the row may have; 0 for rows that only fill the shape.
      allowed: int32 [batch, new, choices], ids permitted at each step, ascending, -1 fills; None
        for any.
    """

    limits: Int[Array, " batch"] | np.ndarray
    allowed: Int[Array, "batch new choices"] | np.ndarray | None


class SharedRules(NamedTuple):
    """What all rows have in common.

    Attributes:
      stop_ids: int32 [ids], tokens that end a row; -1 fills.
      stop_table: int32 [states, vocab], automaton of the stop strings (`StopStrings.table`); None
        for none.
      vocabulary: bool [vocab], ids permitted at every step; None for any.
    """

    stop_ids: Int[Array, " ids"] | np.ndarray
    stop_table: Int[Array, "states vocab"] | np.ndarray | None
    vocabulary: Bool[Array, " vocab"] | np.ndarray | None

    def follow(
        self, state: Int[Array, " batch"], token: Int[Array, " batch"]
    ) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
        """The stop strings' state after a token, and whether it ends the row."""
        ended = (token[:, None] == self.stop_ids).any(-1)
        if self.stop_table is None:
            return state, ended
        state = jnp.asarray(self.stop_table)[state, token]
        return state, ended | (state == len(self.stop_table) - 1)


def shared_rules(
    vocab_size: int,
    stop_ids: Sequence[int],
    stop_strings: StopStrings | None,
    vocabulary: Sequence[int] | None,
) -> SharedRules:
    """Arrays of the rules that hold for every prompt of a call.

    Raises:
      DataError: the vocabulary is empty or has ids that the model lacks.
    """
    stops = sorted(set(stop_ids))
    mask = None
    if vocabulary is not None:
        ids = np.unique(np.asarray(vocabulary, np.int64))
        if not len(ids) or ids[0] < 0 or ids[-1] >= vocab_size:
            raise DataError(
                f"the permitted vocabulary has {len(ids)} ids; it needs one or more, all from 0 "
                f"to {vocab_size - 1}"
            )
        mask = np.zeros(vocab_size, bool)
        mask[ids] = True
    table = None if stop_strings is None else stop_strings.padded_table(vocab_size)
    return SharedRules(
        np.asarray(stops + [-1] * (_size(len(stops)) - len(stops)), np.int32), table, mask
    )


class AllowedTokens:
    """The per-position mask of every prompt: the ids permitted at each step, within the common
    vocabulary.

    Attributes:
      steps: for each prompt, ascending ids of each step.
      lengths: steps of each prompt.
    """

    def __init__(
        self,
        allowed: Sequence[Sequence[Sequence[int]]],
        count: int,
        max_new_tokens: int,
        vocab_size: int,
        mask: np.ndarray | None,
    ):
        """Checks the ids.

        Args:
          allowed: ids of each prompt and step.
          count: number of prompts.
          max_new_tokens: later steps are dropped.
          vocab_size: ids end below it.
          mask: bool [vocab], ids permitted at every step; None for any.

        Raises:
          DataError: prompts and masks differ in number, or a step permits nothing or an id that the
            model lacks.
        """
        if len(allowed) != count:
            raise DataError(
                f"{len(allowed)} masks of permitted tokens for {count} prompts; give one each"
            )
        self.steps: list[list[list[int]]] = []
        permitted = None if mask is None else set(np.flatnonzero(mask).tolist())
        for index, steps in enumerate(allowed):
            kept = [
                sorted({int(i) for i in step if permitted is None or int(i) in permitted})
                for step in steps[:max_new_tokens]
            ]
            if not kept or not all(kept):
                raise DataError(
                    f"prompt {index}: step {kept.index([]) if kept else 0} permits no token; each "
                    "step needs one or more"
                )
            if any(ids[0] < 0 or ids[-1] >= vocab_size for ids in kept):
                raise DataError(
                    f"prompt {index} permits a token that the model lacks; ids go from 0 to "
                    f"{vocab_size - 1}"
                )
            self.steps.append(kept)
        self.lengths = [len(steps) for steps in self.steps]
        self._choices = _size(max((len(ids) for steps in self.steps for ids in steps), default=1))
        self._max_new_tokens = max_new_tokens

    def rows(self, rows: Int[np.ndarray, " batch"]) -> Int[np.ndarray, "batch new choices"]:
        """The mask of some prompts; -1 in `rows` is a row without one."""
        table = np.full((len(rows), self._max_new_tokens, self._choices), -1, np.int32)
        for row, index in enumerate(rows):
            for step, ids in enumerate(self.steps[index] if index >= 0 else ()):
                table[row, step, : len(ids)] = ids
        return table


def _size(count: int) -> int:
    """The next power of two: few shapes."""
    return 1 << max(count - 1, 0).bit_length()
