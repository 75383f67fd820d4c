"""LoRA over the fused, stacked LLaMA parameters: against the definition on unfused matrices, and
what trains.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.llm.llama import Llama, scannable
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.llama_weights import HUGGINGFACE_NAMES, params_from_tensors
from v2l_jax.llm.lora import PROJECTIONS, Lora, init_adapters, merged, projection_sizes

CONFIG = LlamaConfig(
    50, 32, 48, 2, 6, 2, 8, 128, 1e-5, rotary_frequencies(8, 10000.0), tied_embeddings=True
)
MODEL = Llama(CONFIG)
_OWN_NAMES = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention_output",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip


def _random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


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


@pytest.mark.parametrize(
    "targets", [("q_proj", "k_proj"), ("v_proj",), ("up_proj", "o_proj"), PROJECTIONS]
)
def test_merging_equals_changing_the_checkpoint(targets):
    """The definition, W + alpha/r B A on each unfused matrix, then loaded as any checkpoint is."""
    rng = np.random.default_rng(0)
    tensors, lora = _checkpoint(rng), Lora(3, 6.0, targets)
    adapters = _adapters(rng, lora)
    actual = merged(
        CONFIG,
        params_from_tensors(CONFIG, tensors, HUGGINGFACE_NAMES, np.float32),
        adapters,
        lora.scale,
    )
    for target, matrices in adapters.items():
        for layer in range(2):
            name = HUGGINGFACE_NAMES[_OWN_NAMES[target]].format(layer)
            tensors[name] = tensors[name] + 2.0 * np.asarray(
                matrices["lora_B"][layer]
            ) @ np.asarray(matrices["lora_A"][layer])
    expected = params_from_tensors(CONFIG, tensors, HUGGINGFACE_NAMES, np.float32)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-4, rtol=0), actual, expected)


def test_bfloat16_bits_are_merged_like_bfloat16():
    rng = np.random.default_rng(1)
    params = params_from_tensors(CONFIG, _checkpoint(rng), HUGGINGFACE_NAMES, jnp.bfloat16)
    lora = Lora(targets=("k_proj", "gate_proj"))
    adapters = _adapters(rng, lora)
    held_as_bits = jax.tree.map(jnp.asarray, scannable(params))
    assert held_as_bits["layers"]["qkv"].dtype == jnp.uint16
    plain, bits = (
        merged(CONFIG, p, adapters, lora.scale)["layers"] for p in (params, held_as_bits)
    )
    for name in ("qkv", "gate_up"):
        assert bits[name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(bits[name], plain[name])
    assert bits["down"] is held_as_bits["layers"]["down"]


def test_new_adapters_change_nothing_and_start_as_in_peft():
    lora = Lora(rank=16, targets=PROJECTIONS)
    adapters = init_adapters(jax.random.key(0), CONFIG, lora)
    params = params_from_tensors(
        CONFIG, _checkpoint(np.random.default_rng(2)), HUGGINGFACE_NAMES, np.float32
    )
    jax.tree.map(
        np.testing.assert_array_equal, merged(CONFIG, params, adapters, lora.scale), params
    )
    for target, matrices in adapters.items():
        bound = projection_sizes(CONFIG, target)[1] ** -0.5
        assert bound * 0.95 < np.abs(matrices["lora_A"]).max() <= bound
        np.testing.assert_allclose(
            np.var(matrices["lora_A"]), bound**2 / 3, rtol=0.15
        )  # variance of a uniform


def test_the_gradient_is_that_of_the_low_rank_product():
    """d/dB of a linear function <G, W + s B A> is s G Aᵀ, and d/dA is s Bᵀ G; nothing flows to the
    base.
    """
    rng = np.random.default_rng(3)
    params = params_from_tensors(CONFIG, _checkpoint(rng), HUGGINGFACE_NAMES, np.float32)
    lora = Lora(2, 5.0, ("down_proj",))
    adapters, weight = _adapters(rng, lora), _random(rng, 2, 48, 32)

    def product(adapters, params):
        return jnp.sum(merged(CONFIG, params, adapters, lora.scale)["layers"]["down"] * weight)

    by_adapters, by_base = jax.grad(product, (0, 1))(adapters, jax.tree.map(jnp.asarray, params))
    a, b = (np.asarray(adapters["down_proj"][m]) for m in ("lora_A", "lora_B"))
    expected = {
        "lora_A": 2.5 * np.einsum("lor,lio->lri", b, weight),
        "lora_B": 2.5 * np.einsum("lio,lri->lor", weight, a),
    }
    for matrix, gradient in expected.items():
        np.testing.assert_allclose(by_adapters["down_proj"][matrix], gradient, atol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(by_base))


@pytest.mark.parametrize(
    "wrong",
    [{"targets": ("qproj",)}, {"targets": ()}, {"targets": ("q_proj", "q_proj")}, {"rank": 0}],
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ConfigError, match="targets|rank"):
        Lora(**wrong)
