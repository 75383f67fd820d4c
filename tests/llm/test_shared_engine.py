"""An engine of three processes, all in this one, against an engine alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.llm import shared_engine
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.shared_engine import SharedEngine
from v2l_jax.llm.stop_strings import StopStrings

CONFIG = LlamaConfig(40, 32, 48, 2, 4, 2, 8, 96, 1e-5, rotary_frequencies(8, 10000.0))
PROCESSES = 3


@pytest.fixture(scope="module")
def alone():
    model, one = Llama(CONFIG), jnp.zeros((1, 1), jnp.int32)
    start = model.init(jax.random.key(0), one, one)["params"]
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start)
    params |= {name: start[name] * 40 for name in ("embedding", "output")}
    return LLMEngine(model, params, token_budget=256)


class Others:
    """The other processes, which note what they were asked. They share an engine, whose programs
    are compiled once.
    """

    def __init__(self, engine):
        self.engine = engine
        self.answering = [shared_engine._Answering(engine) for _ in range(PROCESSES - 1)]
        self.request, self.asked = None, []

    def told(self, message):
        self.request = message
        return message

    def gathered(self, own):
        answers = [own]
        for row in self.request.slots:
            self.engine.slot_ids(np.frombuffer(row, np.float32)[None])
        for process, one in enumerate(self.answering, 1):
            answers.append(one.part(self.request, process))
        self.asked.append([part and len(part.get("prompts", ())) for part in self.request.parts])
        return answers


@pytest.fixture
def shared(alone, monkeypatch):
    others = Others(alone)
    monkeypatch.setattr(shared_engine, "told", others.told)
    monkeypatch.setattr(shared_engine, "gathered", others.gathered)
    engine = SharedEngine(alone.model, alone.params, token_budget=256, processes=PROCESSES)
    for name in ("_prefill", "_join", "_score", "_choose", "_generate"):
        setattr(engine, name, getattr(alone, name))  # compiled programs
    engine.others = others
    return engine


def prompts(count, length=9):
    rng = np.random.default_rng(1)
    return [rng.integers(1, 40, length).tolist() for _ in range(count)]


def test_every_way_to_answer_is_divided_and_gives_what_one_engine_gives(alone, shared):
    asked = prompts(7)
    candidates = [[[1 + i, 2], [3, 4 + i], [39]] for i in range(7)]
    allowed = [[[1, 2, 3 + i], [4, 5], [6 + i, 9]] for i in range(7)]
    scores = alone.score_continuations(asked, candidates)
    for own, theirs in zip(shared.score_continuations(asked, candidates), scores, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(shared.choose(asked, candidates), alone.choose(asked, candidates))
    masked = {"allowed": allowed, "stop_ids": (9,)}
    assert shared.generate(asked, 3, **masked) == alone.generate(asked, 3, **masked)
    texts = {"stop_strings": StopStrings.build([f" {i}" for i in range(40)], ["7"])}
    assert shared.generate_text(asked, 4, **texts) == alone.generate_text(asked, 4, **texts)
    assert shared.others.asked == [[2, 2, 3]] * 4


def test_prefixes_stay_where_they_were_computed(alone, shared):
    """Windows of denoising: five prefixes, of which the last process holds two; each prompt goes
    to the holder of its beginning.
    """
    prefixes = prompts(5, 20)
    asked = [[*prefixes[i % 5], 3 + i, 4] for i in range(8)]
    found = shared.generate(asked, 3, prefix_cache=shared.cache_prefixes(prefixes))
    expected = alone.generate(asked, 3, prefix_cache=alone.cache_prefixes(prefixes))
    assert found == expected
    assert shared.others.asked[1] == [2, 4, 2]  # of prefix 0; 1 and 2; 3 and 4
    again = shared.cache_prefixes(prefixes[:1])
    assert shared.generate(asked[:1], 3, prefix_cache=again) == expected[:1]
    assert shared.others.asked[3].count(None) == 2


def test_vectors_in_prompts_reach_all(alone, shared):
    vectors = 5 * np.random.default_rng(2).normal(size=(4, 32)).astype("f4")
    asked = [[3, slot, 5, 6] for slot in shared.slot_ids(vectors)]
    assert not alone._slots
    found = shared.generate(asked, 3)
    assert [np.frombuffer(row, "f4").tolist() for row in alone._slots] == vectors.tolist()
    assert found == alone.generate(asked, 3)


def test_what_a_process_meets_is_raised_by_the_first(shared):
    """Only the last prompt, which the last process answers, is too long."""
    with pytest.raises(DataError, match="1 of 1 prompts do not fit the model's context of 96"):
        shared.generate([[1], [2], [1] * 200], 3)


def test_others_serve_each_model_by_its_name_until_the_first_has_finished(alone, monkeypatch):
    """Two models, asked three times: each is opened once."""
    part = {"prompts": [[1, 2, 3]], "max_new_tokens": 2}
    asked = [
        shared_engine._Request(model, [], "generate", [part]) for model in ("", "tuned", "tuned")
    ]
    requests, answers, opened = iter([*asked, None]), [], []
    monkeypatch.setattr(shared_engine, "told", lambda message: next(requests))
    monkeypatch.setattr(shared_engine, "gathered", answers.append)
    shared_engine.serve(lambda model: opened.append(model) or alone)
    assert opened == ["", "tuned"]
    assert answers == [alone.generate(part["prompts"], 2)] * 3
