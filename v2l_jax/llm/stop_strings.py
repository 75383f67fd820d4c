"""Where a generated text ends: strings that may span tokens or begin inside one, found by table
look-up on the device.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

from v2l_jax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class StopStrings:
    """An automaton over token bytes that finds the first of a few strings (Aho & Corasick 1975).

    Attributes:
      strings: what ends a text.
      token_bytes: id → UTF-8 bytes of the token; empty for tokens that write nothing.
      table: [states, vocabulary], the state after a token; state 0 begins, the last state means
        that a string was found.
    """

    strings: tuple[str, ...]
    token_bytes: tuple[bytes, ...]
    table: Int[np.ndarray, "states vocab"]

    @classmethod
    def build(
        cls,
        tokens: Sequence[bytes] | Sequence[str],
        strings: Sequence[str],
        special_ids: Collection[int] = (),
    ) -> "StopStrings":
        """Builds the automaton once for a vocabulary.

        Args:
          tokens: what each id writes, as bytes (`TextTokenizer.token_bytes`) or text.
          strings: what ends a text, at least one, none empty.
          special_ids: ids that write nothing (`TextTokenizer.special_ids`).

        Raises:
          DataError: no string, or an empty one.
        """
        if isinstance(strings, str) or not strings or not all(strings):
            raise DataError(
                f"stop strings {strings!r} must be a list of strings that are not empty; pass "
                "none to go on to the limit"
            )
        pieces = [token.encode() if isinstance(token, str) else token for token in tokens]
        token_bytes = tuple(b"" if i in special_ids else piece for i, piece in enumerate(pieces))
        return cls(
            tuple(strings),
            token_bytes,
            _token_table(_byte_table([s.encode() for s in strings]), token_bytes),
        )

    def text_before(self, ids: Sequence[int]) -> str:
        """The text of tokens up to the first stop string, or all of it; fragments that form no
        character become U+FFFD.
        """
        joined, end = self._joined(ids)
        return joined[:end].decode("utf-8", errors="replace")

    def tokens_before(self, ids: Sequence[int]) -> list[int]:
        """The tokens that end before the first stop string begins; one that it begins inside is
        left out.
        """
        _, end = self._joined(ids)
        ends = np.cumsum([len(self._bytes(i)) for i in ids])
        return list(ids[: int(np.searchsorted(ends, end, side="right"))])

    def _joined(self, ids: Sequence[int]) -> tuple[bytes, int]:
        """The bytes of all tokens, and where the first stop string begins in them."""
        joined = b"".join(map(self._bytes, ids))
        found = [at for at in (joined.find(s.encode()) for s in self.strings) if at >= 0]
        return joined, min(found, default=len(joined))

    def _bytes(self, token_id: int) -> bytes:
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""

    def padded_table(self, vocab_size: int) -> Int[np.ndarray, "states vocab"]:
        """`table` for a model whose embedding has more rows than the tokenizer has tokens; the
        surplus writes nothing.
        """
        surplus = vocab_size - self.table.shape[1]
        same = np.arange(len(self.table), dtype=self.table.dtype)[:, None]
        return (
            np.concatenate([self.table, np.repeat(same, surplus, axis=1)], axis=1)
            if surplus > 0
            else self.table[:, :vocab_size]
        )


def _byte_table(strings: Sequence[bytes]) -> Int[np.ndarray, "states 256"]:
    """State after a byte; the last state absorbs."""
    prefixes = sorted(
        {s[:i] for s in strings for i in range(len(s) + 1)}, key=lambda p: (len(p), p)
    )
    found = lambda text: any(s in text for s in strings)
    states = {p: i for i, p in enumerate(p for p in prefixes if not found(p))}
    table = np.full((len(states) + 1, 256), len(states), np.int32)
    for prefix, state in states.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            if not found(text):
                table[state, byte] = next(
                    states[text[i:]] for i in range(len(text) + 1) if text[i:] in states
                )
    return table


def _token_table(
    byte_table: Int[np.ndarray, "states 256"], token_bytes: Sequence[bytes]
) -> Int[np.ndarray, "states vocab"]:
    """State after all bytes of a token, from each state."""
    lengths = np.array([len(b) for b in token_bytes])
    table = np.repeat(np.arange(len(byte_table), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for at in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > at)
        following = np.array([token_bytes[i][at] for i in longer.tolist()])
        table[:, longer] = byte_table[table[:, longer], following]
    return table
