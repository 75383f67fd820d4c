"""bfloat16 on a CPU: the same numbers as by plain slices, without float32 copies of whole
stacks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.llm.bfloat16_slices import take
from v2l_jax.llm.llama import Llama, init_cache
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies

CONFIG = LlamaConfig(64, 64, 128, 12, 4, 2, 16, 64, 1e-5, rotary_frequencies(16, 10000.0))
MODEL = Llama(CONFIG, dtype=jnp.bfloat16)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 6)))
POSITIONS = jnp.broadcast_to(jnp.arange(6), TOKENS.shape)


@pytest.fixture(scope="module")
def params():
    start = MODEL.init(jax.random.key(0), TOKENS, POSITIONS)["params"]
    return jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, start)


def _forward():
    """A prefill and a step with its cache; a new function each time, since forms are chosen when it
    is traced.
    """

    def run(params):
        first, cache = MODEL.apply(
            {"params": params},
            TOKENS[:, :5],
            POSITIONS[:, :5],
            cache=init_cache(CONFIG, 2, 6, MODEL.dtype),
        )
        second, _ = MODEL.apply({"params": params}, TOKENS[:, 5:], POSITIONS[:, 5:], cache=cache)
        _, kept = MODEL.apply({"params": params}, TOKENS[:, :5], POSITIONS[:, :5], keep=True)
        third, _ = MODEL.apply({"params": params}, TOKENS[:, 5:], POSITIONS[:, 5:], (kept,))
        return first, second, third

    return jax.jit(run)


def test_parameters_are_bfloat16_and_results_those_of_plain_slices(params, monkeypatch):
    assert params["layers"]["qkv"].dtype == params["embedding"].dtype == jnp.bfloat16
    actual = _forward()(params)
    monkeypatch.setenv("V2L_JAX_CPU_FORMS", "off")
    expected = _forward()(params)
    assert all(np.std(x) > 0.1 for x in expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_no_stack_is_copied(params):
    memory = _forward().lower(params).compile().memory_analysis()
    matrices = sum(x.size for x in jax.tree.leaves(params["layers"]) if x.ndim > 2)
    assert memory.temp_size_in_bytes < 2 * matrices  # a copy in bfloat16; float32 takes twice that


def test_slices_have_the_derivative_of_slices():
    array = jnp.arange(24, dtype=jnp.bfloat16).reshape(4, 3, 2)
    for index in (jnp.asarray(2), jnp.asarray([[1, 3]])):
        weight = jnp.cos(jnp.arange(array[index].size, dtype=jnp.float32)).reshape(
            array[index].shape
        )
        np.testing.assert_array_equal(take(array, index), array[index])
        actual, expected = (
            jax.grad(lambda x, f=f, i=index: jnp.sum(f(x, i) * weight))(array)
            for f in (take, lambda x, i: x[i])
        )
        np.testing.assert_array_equal(actual, expected)
