"""Attention of a text: of the very network, and what is made of it, by loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.llm.attention_maps import AttentionMaps, attention_maps, rollout, sinks
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import Lora, init_adapters, scaled

CONFIG = LlamaConfig(40, 32, 48, 2, 4, 2, 8, 64, 1e-5, rotary_frequencies(8, 10000.0))
MODEL, TOKENS = Llama(CONFIG), np.array([1, 7, 41, 40, 3, 9], np.int32)


@pytest.fixture(scope="module")
def params():
    """With new rows and adapters."""
    one, key = jnp.zeros((1, 1), jnp.int32), jax.random.key(0)
    start = jax.tree.map(lambda x: x * 8, MODEL.init(key, one, one)["params"])
    lora = Lora(2, 8.0, ("q_proj", "o_proj", "down_proj"))
    changes = jax.tree.map(lambda x: x + 0.1, init_adapters(key, CONFIG, lora))
    slots = jax.random.normal(key, (2, 32))
    return {**start, "adapters": scaled(changes, lora.scale), "slots": slots}


def test_it_is_the_attention_that_the_network_computes_with(params):
    maps = attention_maps(MODEL, params, TOKENS)
    positions = jnp.arange(6)[None]
    hidden, _ = MODEL.apply({"params": params}, jnp.asarray(TOKENS)[None], positions)
    np.testing.assert_allclose(maps.hidden, hidden[0], atol=2e-4, rtol=1e-4)
    assert maps.shares.shape == (2, 4, 6, 6)
    np.testing.assert_allclose(maps.shares.sum(-1), 1, rtol=1e-5)
    assert np.asarray(maps.shares)[..., np.triu(np.ones((6, 6), bool), 1)].max() == 0


def test_rollout_is_the_product_over_layers_without_sinks():
    rng = np.random.default_rng(0)
    shares = np.tril(rng.random((3, 2, 4, 4)))
    shares[..., 0] += 2
    shares /= shares.sum(-1, keepdims=True)
    maps = AttentionMaps(shares, np.zeros((4, 1)))
    after_second = np.mean([shares[:, :, i, 1].mean() for i in (2, 3)])
    assert sinks(maps, after_second - 1e-9)[1] and not sinks(maps, after_second + 1e-9)[1]
    without = sinks(maps)
    assert without.tolist() == [True, False, False, False]
    expected = np.eye(4)
    for layer in shares:
        mixed = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                looked = 0.0 if j == 0 and i != 0 else layer[:, i, j].mean()
                mixed[i, j] = (looked + (i == j)) / 2
            mixed[i] /= mixed[i].sum()
        expected = mixed @ expected
    found = rollout(maps, without)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1)
    assert found[3, 0] == 0
