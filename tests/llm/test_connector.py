"""The connector: its formula in float64, its file, and that a training step reads its vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from v2l_jax.errors import CheckpointError
from v2l_jax.llm.adapter_step import (
    CONNECTOR,
    adapter_loss,
    adapter_optimizer,
    initial_state,
    make_adapter_step,
)
from v2l_jax.llm.connector import connect, init_connector, load_connector, save_connector
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import Lora

CONFIG = LlamaConfig(20, 16, 24, 1, 2, 1, 8, 64, 1e-5, rotary_frequencies(8, 10000.0))
MODEL, LORA = Llama(CONFIG), Lora(2, 8.0)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(2, 3, 5)).astype(np.float32) * 4 + 1


def _connector(layers):
    return init_connector(jax.random.key(1), 5, 16, layers, np.full(16, 0.3), 0.7)


@pytest.mark.parametrize("layers", [1, 2])
def test_formula_and_file(layers, tmp_path):
    params = _connector(layers)
    save_connector(tmp_path / "c.safetensors", params)
    w = load_connector(tmp_path / "c.safetensors")
    x = FEATURES.astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    if layers == 2:
        x = x @ w["kernel_in"] + w["bias_in"]
        x = x * norm.cdf(x)
    np.testing.assert_allclose(connect(w, FEATURES), x @ w["kernel"] + w["bias"], atol=1e-4)
    assert set(w) == set(params)


def test_vectors_begin_where_the_rows_are():
    many = np.random.default_rng(1).normal(size=(4000, 5)).astype(np.float32)
    vectors = np.asarray(connect(_connector(1), many))
    np.testing.assert_allclose(vectors.mean(0), 0.3, atol=0.1)
    assert 0.4 < (vectors - vectors.mean(0)).std() < 1.1


def test_a_step_reads_each_rows_own_vectors_and_trains_the_connector():
    one = jnp.zeros((1, 1), jnp.int32)
    params = jax.tree.map(lambda x: x * 8, MODEL.init(jax.random.key(0), one, one)["params"])
    tx = adapter_optimizer(1e-4, 0, 10, rows_rate=0.1)
    state = initial_state(jax.random.key(1), MODEL, LORA, tx, connector=_connector(2))
    tokens = np.array([[1, 20, 21, 22, 3, 4], [1, 20, 21, 22, 5, 6]], np.int32)
    batch = {"tokens": tokens, "targets": np.array([[4, 5], [4, 5]]), "features": FEATURES}
    loss = adapter_loss(MODEL, params, state.adapters, LORA.scale, batch)
    vectors, expected = np.asarray(connect(state.adapters[CONNECTOR], FEATURES)), []
    for row in range(2):
        table = np.concatenate([params["embedding"], vectors[row]])
        hidden, _ = MODEL.apply(
            {"params": params}, None, jnp.arange(6)[None], inputs=jnp.asarray(table[tokens[[row]]])
        )
        logits = MODEL.apply({"params": params}, hidden[0, 3:5], method="logits")
        expected += (-jax.nn.log_softmax(logits)[jnp.arange(2), tokens[row, 4:]]).tolist()
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    before = jax.tree.map(np.asarray, state.adapters[CONNECTOR])
    new, _ = make_adapter_step(MODEL, LORA, tx)(state, batch, params)
    assert adapter_loss(MODEL, params, new.adapters, LORA.scale, batch) < loss
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, new.adapters[CONNECTOR])
    assert min(jax.tree.leaves(moved)) > 0.01


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="run the finetune job first"):
        load_connector(tmp_path / "none")
    save_connector(tmp_path / "x", {"other": np.zeros(2)})
    with pytest.raises(CheckpointError, match="no connector"):
        load_connector(tmp_path / "x")
