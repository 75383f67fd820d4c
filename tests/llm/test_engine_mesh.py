"""The in-context engine on one and on eight simulated devices, split over data and tensor axes: the
same answers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.stop_strings import StopStrings
from v2l_jax.parallel.mesh import make_mesh

pytestmark = pytest.mark.mesh

MODEL = Llama(LlamaConfig(64, 64, 96, 2, 16, 8, 4, 128, 1e-5, rotary_frequencies(4, 10000.0)))
MESHES = [{"data": 8}, {"data": 2, "tensor": 4}, {"tensor": 8}]


@pytest.fixture(scope="module")
def params():
    rows = jnp.zeros((1, 1), jnp.int32)
    start = MODEL.init(jax.random.key(0), rows, rows)["params"]
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start) | {
        name: start[name] * 40 for name in ("embedding", "output")
    }


def _answers(engine):
    """All that the engine does, in few shapes: prompts that share a beginning, and their ends
    alone.
    """
    rng = np.random.default_rng(0)
    begin, ends = (
        rng.integers(1, 64, 40).tolist(),
        [rng.integers(1, 64, n).tolist() for n in rng.integers(17, 25, 16)],
    )
    prompts = [begin + end for end in ends]
    stops = StopStrings.build(["".join(rng.choice(list("ab"), 2)) for _ in range(64)], ("abbba",))
    allowed = [[rng.choice(64, 8, replace=False).tolist() for _ in range(4)] for _ in prompts]
    candidates = [[rng.integers(1, 64, n).tolist() for n in (1, 2, 3)] for _ in prompts]
    return {
        "greedy": engine.generate(prompts, 6, stop_strings=stops, stop_ids=[3]),
        "unshared": engine.generate(ends, 6),
        "cached": engine.generate(
            prompts,
            6,
            prefix_cache=engine.cache_prefixes([p[:n] for p, n in zip(prompts, range(30, 46))]),
        ),
        "masked": engine.generate(prompts, 4, allowed=allowed, vocabulary=range(2, 64)),
        "chosen": engine.choose(prompts, [[[5, 6], [5, 7, 8], [9]]] * len(prompts)).tolist(),
        "scores": np.concatenate(engine.score_continuations(prompts, candidates)),
    }


@pytest.fixture(scope="module")
def one_device(params):
    return _answers(LLMEngine(MODEL, params, token_budget=512))


@pytest.mark.parametrize(
    "axes", MESHES, ids=lambda axes: " x ".join(f"{n} {size}" for n, size in axes.items())
)
def test_eight_devices_answer_as_one_does(params, one_device, axes):
    mesh = make_mesh(axes)
    engine = LLMEngine(MODEL, params, mesh, token_budget=512)
    part = engine.params["layers"]["qkv"].addressable_shards[0].data.shape
    assert part[2] == 8 // axes.get("tensor", 1)
    answers = _answers(engine)
    np.testing.assert_allclose(answers.pop("scores"), one_device["scores"], atol=1e-4)
    assert answers == {name: one_device[name] for name in answers}
    assert all(
        len({tuple(a) for a in answers[kind]}) > 10
        for kind in ("greedy", "cached", "unshared", "masked")
    )


def test_real_weights_on_eight_devices(asset):
    """Heads of SmolLM2 do not divide by 4 and stay whole; its vocabulary and MLP are split."""
    config, params = load_llama(asset("smollm2-135m-instruct"))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, config.vocab_size, 12).tolist() for _ in range(8)]
    expected = LLMEngine(Llama(config), params).generate(prompts, 4)
    mesh = make_mesh({"data": 2, "tensor": 4})
    assert LLMEngine(Llama(config), params, mesh).generate(prompts, 4) == expected
