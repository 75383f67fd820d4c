"""New rows of the embedding: where they start, and that the network reads and trains them."""

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.llm import new_rows
from v2l_jax.llm.adapter_step import (
    NEW_ROWS,
    adapter_loss,
    adapter_optimizer,
    initial_state,
    make_adapter_step,
    tuned_params,
)
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import Lora, scaled

CONFIG = LlamaConfig(
    20, 16, 24, 1, 2, 1, 8, 64, 1e-5, rotary_frequencies(8, 10000.0), tied_embeddings=True
)
MODEL = Llama(CONFIG)
RNG = np.random.default_rng(0)
OWN = RNG.normal(size=(300, 16)).astype(np.float32) * np.linspace(0.1, 2, 16) + 1
CENTRES = RNG.normal(size=(7, 5)).astype(np.float32)


def _params():
    one = jnp.zeros((1, 1), jnp.int32)
    return jax.tree.map(lambda x: x * 8, MODEL.init(jax.random.key(0), one, one)["params"])


def test_mean_resizing_draws_from_the_own_rows_distribution():
    rows = new_rows.mean_resizing(OWN, 4000, np.random.default_rng(1))
    scaled_back = (rows - OWN.mean(0)) / 1e-9**0.5
    np.testing.assert_allclose(rows, np.tile(OWN.mean(0), (4000, 1)), atol=1e-3)
    np.testing.assert_allclose(np.cov(scaled_back.T), np.cov(OWN.T), atol=0.3)


def test_starts_are_as_long_as_the_own_rows_about_their_mean():
    features, said = RNG.normal(size=(40, 5)), OWN[:40]
    made = [
        new_rows.projected(OWN, CENTRES, np.random.default_rng(2)),
        new_rows.ridge(OWN, CENTRES, features, said),
        new_rows.aligned(OWN, _unit(CENTRES), _unit(RNG.normal(size=(50, 5))), OWN[:50]),
    ]
    length = lambda rows: np.sqrt(np.mean(np.sum((rows - OWN.mean(0)) ** 2, 1)))
    for rows in made:
        assert rows.shape == (7, 16)
        np.testing.assert_allclose(length(rows), length(OWN), rtol=1e-4)


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_ridge_finds_a_linear_map():
    features = RNG.normal(size=(200, 5))
    true = RNG.normal(size=(5, 16))
    rows = new_rows.ridge(OWN, CENTRES, features, features @ true + 3, strength=1e-9)
    direction = _unit(rows - OWN.mean(0))
    np.testing.assert_allclose(direction, _unit((CENTRES - features.mean(0)) @ true), atol=1e-3)


def test_aligned_rows_are_those_of_the_nearest_word():
    words = np.eye(5, dtype=np.float32)
    rows = new_rows.aligned(OWN, words[[3, 1]], words, OWN[:5], count=2, temperature=1e-3)
    expected = _unit(OWN[[3, 1]] - OWN.mean(0))
    np.testing.assert_allclose(_unit(rows - OWN.mean(0)), expected, atol=1e-3)


def test_the_network_reads_rows_and_adapters_that_lie_among_its_parameters():
    """As embeddings looked up by hand, and as the argument `adapters`."""
    params, rows = _params(), RNG.normal(size=(3, 16)).astype(np.float32)
    lora = Lora(2, 8.0)
    changes = initial_state(jax.random.key(1), MODEL, lora, adapter_optimizer(1e-3, 0, 1)).adapters
    changes = jax.tree.map(lambda x: x + 0.1, changes)
    tokens, positions = jnp.asarray([[1, 20, 5, 22, 19]]), jnp.arange(5)[None]
    looked_up = np.concatenate([params["embedding"], rows])[np.asarray(tokens)]
    expected, _ = MODEL.apply(
        {"params": params},
        None,
        positions,
        inputs=jnp.asarray(looked_up),
        adapters=scaled(changes, 4.0),
    )
    whole = tuned_params(params, {**changes, NEW_ROWS: {"rows": rows}}, 4.0)
    found, _ = MODEL.apply({"params": whole}, tokens, positions)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    logits = MODEL.apply({"params": whole}, found, method="logits")
    assert logits.shape[-1] == 20  # new rows are never an output


def test_a_step_trains_the_rows_in_use_at_their_own_rate():
    params, start = _params(), RNG.normal(size=(4, 16)).astype(np.float32)
    lora, tx = Lora(2, 8.0), adapter_optimizer(1e-4, 0, 10, rows_rate=0.5, clip_norm=1e9)
    state = initial_state(jax.random.key(1), MODEL, lora, tx, start)
    tokens = np.array([[20, 21, 3, 4], [21, 20, 5, 6]], np.int32)
    batch = {"tokens": tokens, "targets": np.array([[2, 3], [2, -1]], np.int32)}
    step = make_adapter_step(MODEL, lora, tx)
    before = adapter_loss(MODEL, params, state.adapters, lora.scale, batch)
    new, metrics = step(state, batch, params)
    rows = np.asarray(new.adapters[NEW_ROWS]["rows"])
    np.testing.assert_allclose(metrics["loss"], before, rtol=1e-5)
    np.testing.assert_array_equal(rows[2:], start[2:])  # not in the texts
    np.testing.assert_allclose(np.abs(rows[:2] - start[:2]), 0.5, rtol=1e-3)  # Adam's first step
    moved = np.abs(np.asarray(new.adapters["q_proj"]["lora_B"]))
    assert 0 < moved.max() <= 1.01e-4


def test_vectors_in_a_prompt_come_after_the_new_rows():
    params, rows = _params(), RNG.normal(size=(3, 16)).astype(np.float32)
    engine = LLMEngine(MODEL, tuned_params(params, {NEW_ROWS: {"rows": rows}}, 1.0))
    vectors = RNG.normal(size=(2, 16)).astype(np.float32)
    ids = engine.slot_ids(vectors)
    assert ids == (23, 24)
    (found,) = engine.score_continuations([[1, 21, *ids]], [[(4,), (7,)]])
    table = np.concatenate([params["embedding"], rows, vectors])
    hidden, _ = MODEL.apply(
        {"params": params}, None, jnp.arange(4)[None], inputs=jnp.asarray(table[[[1, 21, 23, 24]]])
    )
    logits = MODEL.apply({"params": params}, hidden[0, -1], method="logits")
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits)[jnp.array([4, 7])], atol=1e-4)
