"""LoRA beside the frozen products: against the definition on a checkpoint's own matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.llm.adapter_step import adapter_optimizer, initial_state, make_adapter_step
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.llama_weights import HUGGINGFACE_NAMES, params_from_tensors
from v2l_jax.llm.lora import PROJECTIONS, Lora, init_adapters, projection_sizes, scaled

CONFIG = LlamaConfig(
    50, 32, 48, 2, 6, 2, 8, 128, 1e-5, rotary_frequencies(8, 10000.0), tied_embeddings=True
)
MODEL = Llama(CONFIG)
_OWN_NAMES = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention_output",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip


def _random(rng, *shape):
    return (0.3 * rng.standard_normal(shape)).astype(np.float32)


def _checkpoint(rng):
    tensors = {
        "model.embed_tokens.weight": _random(rng, 50, 32),
        "model.norm.weight": _random(rng, 32),
    }
    for layer in range(CONFIG.num_layers):
        for projection, name in _OWN_NAMES.items():
            tensors[HUGGINGFACE_NAMES[name].format(layer)] = _random(
                rng, *projection_sizes(CONFIG, projection)
            )
        for name in ("attention_norm", "mlp_norm"):
            tensors[HUGGINGFACE_NAMES[name].format(layer)] = _random(rng, 32)
    return tensors


def _adapters(rng, lora):
    sizes = {t: projection_sizes(CONFIG, t) for t in lora.targets}
    return {
        t: {
            "lora_A": jnp.asarray(_random(rng, 2, lora.rank, i)),
            "lora_B": jnp.asarray(_random(rng, 2, o, lora.rank)),
        }
        for t, (o, i) in sizes.items()
    }


def _params(tensors):
    return params_from_tensors(CONFIG, tensors, HUGGINGFACE_NAMES, np.float32)


def _changed(tensors, adapters, scale):
    """The definition: W + alpha/r B A on each matrix of the checkpoint."""
    tensors = dict(tensors)
    for target, matrices in adapters.items():
        for layer in range(CONFIG.num_layers):
            a, b = (np.asarray(matrices[m][layer]) for m in ("lora_A", "lora_B"))
            name = HUGGINGFACE_NAMES[_OWN_NAMES[target]].format(layer)
            tensors[name] = tensors[name] + scale * b @ a
    return tensors


@jax.jit
def _hidden(params, adapters=None):
    tokens = jnp.asarray(np.random.default_rng(9).integers(0, 50, (2, 11)))
    positions = jnp.broadcast_to(jnp.arange(11), tokens.shape)
    return MODEL.apply({"params": params}, tokens, positions, adapters=adapters)[0]


@pytest.mark.parametrize(
    "targets", [("q_proj", "k_proj"), ("v_proj",), ("up_proj", "o_proj"), PROJECTIONS]
)
def test_adapted_activations_equal_a_changed_checkpoint(targets):
    rng = np.random.default_rng(0)
    tensors, lora = _checkpoint(rng), Lora(3, 6.0, targets)
    adapters = _adapters(rng, lora)
    before, after = _hidden(_params(tensors)), _hidden(_params(_changed(tensors, adapters, 2.0)))
    actual = _hidden(_params(tensors), scaled(adapters, lora.scale))
    assert np.abs(after - before).max() > 0.05
    np.testing.assert_allclose(actual, after, atol=1e-5, rtol=0)


def test_gradients_equal_those_through_dense_weights():
    """With dW the gradient at the changed weights W + s B A: dB = s dW Aᵀ and dA = s Bᵀ dW."""
    rng = np.random.default_rng(3)
    tensors, lora = _checkpoint(rng), Lora(2, 5.0, PROJECTIONS)
    adapters, weight = _adapters(rng, lora), _random(rng, 2, 11, 32)
    loss = lambda params, adapters: jnp.sum(_hidden(params, adapters) * weight)
    actual = jax.grad(lambda a: loss(_params(tensors), scaled(a, 2.5)))(adapters)
    merged = jax.tree.map(jnp.asarray, _params(_changed(tensors, adapters, 2.5)))
    dense = jax.grad(loss)(merged, None)["layers"]
    queries = CONFIG.queries_per_kv
    by_projection = {
        "q_proj": dense["qkv"][..., :queries, :],
        "k_proj": dense["qkv"][..., queries, :],
        "v_proj": dense["qkv"][..., queries + 1, :],
        "o_proj": dense["attention_output"],
        "gate_proj": dense["gate_up"][:, :, 0],
        "up_proj": dense["gate_up"][:, :, 1],
        "down_proj": dense["down"],
    }
    for target, matrices in adapters.items():
        a, b = (np.asarray(matrices[m]) for m in ("lora_A", "lora_B"))
        dw = np.asarray(by_projection[target]).reshape(2, a.shape[2], b.shape[1])
        expected = {
            "lora_A": 2.5 * np.einsum("lor,lio->lri", b, dw),
            "lora_B": 2.5 * np.einsum("lio,lri->lor", dw, a),
        }
        for matrix, gradient in expected.items():
            assert np.abs(gradient).max() > 0.1
            np.testing.assert_allclose(actual[target][matrix], gradient, atol=2e-5, rtol=1e-4)


def test_training_memory_does_not_hold_the_gradient_of_a_whole_matrix():
    config = LlamaConfig(64, 256, 512, 8, 4, 4, 64, 64, 1e-5, rotary_frequencies(64, 10000.0))
    model, lora = Llama(config), Lora()
    tx = adapter_optimizer(1e-3, 1, 10)
    rows = jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), rows, rows)["params"]
    state = jax.eval_shape(lambda: initial_state(jax.random.key(0), model, lora, tx))
    texts = {"tokens": np.ones((1, 16), np.int32), "targets": np.ones((1, 4), np.int32)}
    step = make_adapter_step(model, lora, tx).lower(state, texts, params).compile()
    stack = 4 * params["layers"]["qkv"].size
    assert step.memory_analysis().temp_size_in_bytes < stack


def test_new_adapters_change_nothing_and_start_as_in_peft():
    lora = Lora(rank=16, targets=PROJECTIONS)
    adapters = init_adapters(jax.random.key(0), CONFIG, lora)
    params = _params(_checkpoint(np.random.default_rng(2)))
    np.testing.assert_array_equal(_hidden(params, scaled(adapters, lora.scale)), _hidden(params))
    for target, matrices in adapters.items():
        bound = projection_sizes(CONFIG, target)[1] ** -0.5
        assert bound * 0.95 < np.abs(matrices["lora_A"]).max() <= bound
        np.testing.assert_allclose(
            np.var(matrices["lora_A"]), bound**2 / 3, rtol=0.15
        )  # variance of a uniform


@pytest.mark.parametrize(
    "wrong",
    [{"targets": ("qproj",)}, {"targets": ()}, {"targets": ("q_proj", "q_proj")}, {"rank": 0}],
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ConfigError, match="targets|rank"):
        Lora(**wrong)
