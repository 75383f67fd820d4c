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

pytestmark = pytest.mark.real

CASES = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "smollm2_generate.json").read_text()
)


@pytest.fixture(scope="module")
def engine(asset):
    config, params = load_llama(asset("smollm2-135m-instruct"))
    return LLMEngine(Llama(config), params)


def differing(engine, cases):
    """Prompts that are answered otherwise than the peer did."""
    answers = engine.generate([case["prompt"] for case in cases], 16)
    return [(a, case["new"]) for a, case in zip(answers, cases, strict=True) if a != case["new"]]


def test_stored_prompts(engine):
    """tests/golden/make_smollm2_generate.py made them; no answer hung on a lead below what rounding
    can turn. Every eighth, and the longest.
    """
    lengths = np.array([len(case["prompt"]) for case in CASES])
    assert len(CASES) >= 200 and lengths.min() == 5 and lengths.max() == 300
    assert min(case["lead"] for case in CASES) > 1e-3
    assert not differing(engine, [*CASES[::8], CASES[lengths.argmax()]])


def test_all_stored_prompts(torch, engine):
    """Where PyTorch is, which says that there is time for it."""
    assert not differing(engine, CASES)


def test_the_peer_itself(torch, asset):
    """The stored answers, and their smallest leads, come from the peer as it is installed."""
    peer = load_peer(asset("smollm2-135m-instruct"))
    for case in CASES[::30]:
        new, lead = greedy_tokens(peer, case["prompt"], 16)
        assert new == case["new"]
        assert lead == pytest.approx(case["lead"], rel=0.02, abs=2e-4)
