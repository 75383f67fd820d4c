"""Greedy generation with real weights, token for token what Hugging Face `generate` writes
(float32, batch 1).
"""

import json
import pathlib

import numpy as np
import pytest

from tests.huggingface_smollm2 import greedy_tokens, load_peer
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama

CASES = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "smollm2_generate.json").read_text()
)


@pytest.fixture(scope="module")
def engine(asset):
    config, params = load_llama(asset("smollm2-135m-instruct"))
    return LLMEngine(Llama(config), params)


def test_all_stored_prompts(engine):
    """tests/golden/make_smollm2_generate.py made them; no answer hung on a lead below what rounding
    can turn.
    """
    prompts = [case["prompt"] for case in CASES]
    lengths = np.array([len(prompt) for prompt in prompts])
    assert len(prompts) >= 200 and lengths.min() == 5 and lengths.max() == 300
    assert min(case["lead"] for case in CASES) > 1e-3
    answers = engine.generate(prompts, 16)
    differing = {
        i: (answer, case["new"])
        for i, (answer, case) in enumerate(zip(answers, CASES))
        if answer != case["new"]
    }
    assert not differing


def test_the_peer_itself(torch, asset):
    """The stored answers, and their smallest leads, come from the peer as it is installed."""
    peer = load_peer(asset("smollm2-135m-instruct"))
    for case in CASES[::21]:
        new, lead = greedy_tokens(peer, case["prompt"], 16)
        assert new == case["new"]
        assert lead == pytest.approx(case["lead"], rel=0.02, abs=2e-4)
