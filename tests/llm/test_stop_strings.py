"""The stop-string automaton against searching the text."""

import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.llm.stop_strings import StopStrings

TOKENS = [b"a", b"b", b"ab", b"ba", b"aab", b"c\nb", b"\n", b"", b"\xc3", b"\xa9", b"bab"]
STOP_SETS = [("ab",), ("aab", "b\n"), ("abab", "ba"), ("\n",), ("é", "bb")]


def _walk(stops, ids):
    """How many tokens the automaton reads until it has found a string; None if it never does."""
    state = 0
    for i, token in enumerate(ids):
        state = int(stops.table[state, token])
        if state == len(stops.table) - 1:
            return i + 1
    return None


@pytest.mark.parametrize("strings", STOP_SETS)
def test_automaton_stops_with_the_token_that_completes_a_string(strings):
    stops = StopStrings.build(TOKENS, strings)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        ids = rng.integers(0, len(TOKENS), 8).tolist()
        texts = [b"".join(TOKENS[i] for i in ids[:n]) for n in range(len(ids) + 1)]
        expected = next(
            (n for n, text in enumerate(texts) if any(s.encode() in text for s in strings)), None
        )
        assert _walk(stops, ids) == expected
        found += expected is not None
        joined = texts[-1]
        end = min(
            (joined.index(s.encode()) for s in strings if s.encode() in joined), default=len(joined)
        )
        assert stops.text_before(ids) == joined[:end].decode(errors="replace")
        whole = stops.tokens_before(ids)
        assert whole == ids[: len(whole)] and len(texts[len(whole)]) <= end
        assert len(whole) == len(ids) or len(texts[len(whole) + 1]) > end
    assert found > 30


def test_found_is_for_good_and_surplus_ids_write_nothing():
    stops = StopStrings.build(TOKENS, ("ab",))
    table = stops.padded_table(len(TOKENS) + 3)
    assert (table[-1] == len(table) - 1).all()
    assert (table[:, len(TOKENS) :] == np.arange(len(table))[:, None]).all()
    assert stops.text_before([0, len(TOKENS) + 1, 0]) == "aa"


def test_special_tokens_write_nothing():
    stops = StopStrings.build(["x", "<end>", "y"], ("end", "xy"), special_ids={1})
    assert stops.text_before([2, 1, 2]) == "yy"
    assert _walk(stops, [0, 1, 2]) == 3


@pytest.mark.parametrize("strings", [(), ("a", ""), "ab"])
def test_bad_strings_are_named(strings):
    with pytest.raises(DataError, match="not empty"):
        StopStrings.build(TOKENS, strings)
