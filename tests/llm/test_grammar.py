"""What a grammar lets through is exactly the records; writing under it is greedy among these."""

import itertools

import numpy as np
import pytest

from tests.llm.test_engine import _prompts, engine, log_probs, model, params  # noqa: F401
from v2l_jax.errors import DataError
from v2l_jax.llm.grammar import repeated

FIELDS = [[(1,), (2, 3), (2, 4)], [(5, 5), (5, 6)], [(7,)]]


def _texts(grammar, state=0, length=0, most=7):
    """Everything that the grammar writes in up to `most` tokens, whole or not."""
    yield ()
    if length < most:
        for token, after in zip(grammar.tokens[state], grammar.following[state]):
            if token >= 0:
                for rest in _texts(grammar, int(after), length + 1, most):
                    yield (int(token), *rest)


def test_the_beginnings_of_lists_of_records_and_nothing_else():
    records = [sum(parts, ()) for parts in itertools.product(*FIELDS)]
    lists = {a + b for a in records for b in records}
    wanted = {text[:n] for text in lists for n in range(8) if n <= len(text)}
    grammar = repeated(FIELDS)
    assert set(_texts(grammar)) == wanted
    ended = repeated(FIELDS, ends=(9,))
    found = set(_texts(ended))
    assert found == wanted | {r + (9,) for r in [(), *records] if len(r) < 7} | {
        text + (9,) for text in lists if len(text) < 7
    }


@pytest.mark.parametrize("field", [[(1,), (1,)], [(1,), (1, 2)], [()]])
def test_what_cannot_be_told_apart_is_refused(field):
    with pytest.raises(DataError):
        repeated([field])


@pytest.mark.parametrize("ends", [(), (9,)])
def test_the_likeliest_permitted_tokens(engine, log_probs, ends):  # noqa: F811
    grammar = repeated(FIELDS, ends)
    prompts = _prompts(4)
    for prompt, (ids, likely) in zip(prompts, engine.follow(prompts, grammar, 9), strict=True):
        state, wanted, values = 0, [], []
        while len(wanted) < 9 and grammar.tokens[state, 0] >= 0:
            table = log_probs(prompt + wanted)[-1]
            options = [int(t) for t in grammar.tokens[state] if t >= 0]
            wanted.append(max(options, key=lambda t: table[t]))
            values.append(table[wanted[-1]])
            (column,) = np.flatnonzero(grammar.tokens[state] == wanted[-1])
            state = int(grammar.following[state, column])
        assert ids == wanted
        np.testing.assert_allclose(likely, values, atol=2e-4)
