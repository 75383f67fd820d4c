"""The likeliest names, against scoring all of them by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.llm.best_names import best_names
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies

CONFIG = LlamaConfig(30, 16, 24, 1, 2, 1, 8, 64, 1e-5, rotary_frequencies(8, 10000.0))
END = 29


@pytest.fixture(scope="module")
def engine():
    model = Llama(CONFIG)
    one = jnp.zeros((1, 1), jnp.int32)
    params = model.init(jax.random.key(0), one, one)["params"]
    return LLMEngine(model, jax.tree.map(lambda x: x * 12, params), token_budget=512)


def _names(count=40):
    rng, names = np.random.default_rng(0), {(1, END), (1, 2, END)}  # one begins the other
    while len(names) < count:
        names.add((*rng.integers(1, 12, rng.integers(1, 4)).tolist(), END))
    return sorted(names)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_five_best_are_those_of_brute_force(engine, calibrated, per_token):
    rng, names = np.random.default_rng(1), _names()
    prompts = [rng.integers(1, 29, 6).tolist() for _ in range(5)]
    prior = rng.normal(size=len(names)) * 3 - 9 if calibrated else None
    lengths = np.asarray([len(name) for name in names]) if per_token else 1
    all_scores = np.stack(engine.score_continuations(prompts, [names] * 5))
    all_scores = (all_scores - (0 if prior is None else prior)) / lengths
    found = best_names(engine, prompts, names, 5, prior, per_token)
    for row, scores, best in zip(all_scores, found.scores, found.names, strict=True):
        np.testing.assert_array_equal(best, np.argsort(-row)[:5])
        np.testing.assert_allclose(scores, np.sort(row)[::-1][:5], rtol=1e-4)


class _Table(LLMEngine):
    """An engine that is its scores."""

    def __init__(self, score):
        self.score_continuations = score


def test_names_that_cannot_win_are_not_scored():
    """First tokens decide: of 100 names eight are scored, whatever follows."""
    names = [(t, 100) for t in range(100)]
    table = np.log(np.full(100, 1e-6))
    table[:5] = np.log([0.3, 0.25, 0.2, 0.15, 0.09])
    asked = []

    def score(prompts, candidates, description):
        asked.append(sum(map(len, candidates)))
        return [np.asarray([table[c[0]] - 0.5 * (len(c) - 1) for c in some]) for some in candidates]

    found = best_names(_Table(score), [[1]], names, 5)
    assert asked == [100, 8] and found.scored == 8
    np.testing.assert_array_equal(found.names, [[0, 1, 2, 3, 4]])


def test_fewer_names_than_wanted(engine):
    found = best_names(engine, [[3, 4]], [(1, END), (2, END)], 5)
    assert sorted(found.names[0].tolist()) == [0, 1]


def test_equal_prompts_are_asked_once_and_few_names_without_bounds(engine):
    names, prompts = _names()[:6], [[3, 4], [5], [3, 4], [5], [3, 4]]
    asked = []

    def score(prompts, candidates, description):
        asked.append((len(prompts), len(candidates[0])))
        return engine.score_continuations(prompts, candidates)

    found = best_names(_Table(score), prompts, names, 5)
    assert asked == [(2, 6)] and found.scored == 12
    wanted = np.stack(engine.score_continuations(prompts, [names] * 5))
    np.testing.assert_array_equal(found.names, np.argsort(-wanted, axis=1)[:, :5])
