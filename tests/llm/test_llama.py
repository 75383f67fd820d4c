"""The LLaMA tower without torch: cache, padding and devices change nothing; real weights against
stored greedy tokens.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.llm.llama import KVCache, Llama, init_cache, load_llama, with_room
from v2l_jax.llm.llama_config import LlamaConfig, config_from_huggingface, rotary_frequencies

CONFIG = LlamaConfig(
    50, 32, 48, 3, 6, 2, 8, 128, 1e-5, rotary_frequencies(8, 10000.0), sliding_window=6,
    first_sliding_layer=1, qkv_bias=True
)  # fmt: skip
MODEL = Llama(CONFIG)
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "smollm2_greedy.json"


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(
        lambda x: x * 5 if x.ndim > 1 else x, MODEL.init(jax.random.key(0), *_rows(1, 1))["params"]
    )


def _rows(batch, length):
    tokens = np.random.default_rng(0).integers(0, 50, (batch, length))
    return jnp.asarray(tokens, jnp.int32), jnp.broadcast_to(
        jnp.arange(length, dtype=jnp.int32), (batch, length)
    )


@jax.jit
def _hidden(params, tokens, positions, contexts=(), cache=None):
    return MODEL.apply({"params": params}, tokens, positions, contexts, cache)


def _close(actual, expected):
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_decoding_with_a_cache_equals_the_full_forward_pass(params):
    tokens, positions = _rows(2, 12)
    full, _ = _hidden(params, tokens, positions)
    cache = init_cache(CONFIG, 2, 16)
    parts = []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12)):
        part, cache = _hidden(params, tokens[:, start:stop], positions[:, start:stop], (), cache)
        parts.append(part)
    _close(jnp.concatenate(parts, 1), full)
    assert cache.cursor == 12 and (cache.positions[:, 12:] == -1).all()


def test_kept_prefill_with_room_is_a_cache(params):
    """Long enough that queries run in several blocks."""
    tokens, positions = _rows(2, 140)
    full, _ = _hidden(params, tokens, positions)
    first, cache = MODEL.apply({"params": params}, tokens[:, :138], positions[:, :138], keep=True)
    second, _ = _hidden(params, tokens[:, 138:], positions[:, 138:], (), with_room(cache, 2))
    _close(jnp.concatenate([first, second], 1), full)
    in_one_block, _ = _hidden(params, tokens, positions, (), init_cache(CONFIG, 2, 140))
    _close(in_one_block, full)


def test_embeddings_looked_up_beforehand_are_those_of_the_tokens(params):
    tokens, positions = _rows(2, 12)
    looked_up = params["embedding"][tokens]
    actual, _ = MODEL.apply({"params": params}, None, positions, inputs=looked_up)
    expected, _ = MODEL.apply({"params": params}, tokens, positions)
    np.testing.assert_array_equal(actual, expected)


def test_padding_on_either_side_changes_nothing(params):
    tokens, positions = _rows(2, 9)
    full, _ = _hidden(params, tokens, positions)
    for left, right in ((4, 0), (0, 4), (2, 2)):
        pad = ((0, 0), (left, right))
        padded, _ = _hidden(
            params,
            jnp.pad(tokens, pad, constant_values=7),
            jnp.pad(positions, pad, constant_values=-1),
        )
        _close(padded[:, left : left + 9], full)


def test_shared_contexts_equal_the_full_forward_pass(params):
    """Two prefixes serve three rows each; a second context serves each row; padding sits in
    both.
    """
    tokens, positions = _rows(6, 12)
    tokens = tokens.at[:, :4].set(tokens[::3, :4].repeat(3, 0))
    full, _ = _hidden(params, tokens, positions)
    pad = ((0, 0), (0, 3))
    shared = jnp.pad(tokens[::3, :4], pad), jnp.pad(positions[::3, :4], pad, constant_values=-1)
    _, prefix = _hidden(params, *shared, (), init_cache(CONFIG, 2, 7))
    middle = jnp.pad(tokens[:, 4:9], pad), jnp.pad(positions[:, 4:9], pad, constant_values=-1)
    hidden, own = _hidden(params, *middle, (prefix,), init_cache(CONFIG, 6, 8))
    _close(hidden[:, :5], full[:, 4:9])
    hidden, none = _hidden(params, tokens[:, 9:], positions[:, 9:], (prefix, own))
    _close(hidden, full[:, 9:])
    assert none is None and isinstance(own, KVCache)


@pytest.mark.mesh
def test_eight_devices_compute_what_one_does(params):
    tokens, positions = _rows(8, 10)
    expected, _ = _hidden(params, tokens, positions)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    actual, _ = _hidden(placed, jax.device_put(tokens, rows), jax.device_put(positions, rows))
    assert actual.sharding.is_equivalent_to(rows, 3)
    _close(actual, expected)


def test_bfloat16_stays_near_float32(params):
    tokens, positions = _rows(2, 12)
    expected, _ = _hidden(params, tokens, positions)
    actual, _ = Llama(CONFIG, dtype=jnp.bfloat16).apply({"params": params}, tokens, positions)
    assert actual.dtype == jnp.float32
    assert 1e-4 < np.sqrt(np.mean((actual - expected) ** 2)) < 0.1


def test_llama3_scaling_keeps_fast_and_divides_slow_rotations():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    scaling["original_max_position_embeddings"] = 8192
    plain, scaled = (np.array(rotary_frequencies(128, 500000.0, s)) for s in (None, scaling))
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any() and ((scaled < plain) & (scaled > plain / 8))[between].all()


@pytest.fixture(scope="module")
def smollm2(asset):
    config, params = load_llama(asset("smollm2-135m-instruct"))
    return Llama(config), params


def test_real_weights_give_the_stored_greedy_tokens(smollm2):
    """tests/golden/smollm2_greedy.json: transformers' LlamaForCausalLM in float32 on the same GGUF
    file.
    """
    model, params = smollm2

    @jax.jit
    def forward(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, jnp.arange(96)[None])
        return model.apply({"params": params}, hidden, method="logits")

    for case in json.loads(GOLDEN.read_text()):
        prompt, new = case["prompt"], case["new"]
        tokens = np.zeros((1, 96), np.int32)
        tokens[0, : len(prompt) + len(new)] = prompt + new
        logits = np.asarray(forward(params, tokens))[0]
        # Teacher-forced: every argmax equal means that greedy decoding walks the same way.
        assert logits[len(prompt) - 1 :].argmax(-1)[: len(new)].tolist() == new
        np.testing.assert_allclose(
            logits[len(prompt) - 1, case["logit_ids"]], case["logits"], atol=1e-3
        )


def _write(folder, config, **tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors or {"x": np.zeros(1, np.float32)}, folder / "model.safetensors")


HUGGINGFACE = dict(
    model_type="llama", vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=16, rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
    ],
)
def test_unsupported_checkpoints_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config_from_huggingface(HUGGINGFACE | change)


def test_missing_and_misshapen_tensors_are_named(tmp_path):
    _write(tmp_path, HUGGINGFACE)
    with pytest.raises(
        CheckpointError, match="input_layernorm.weight' is missing|q_proj.weight' is missing"
    ):
        load_llama(tmp_path)
    _write(
        tmp_path,
        HUGGINGFACE,
        **{"model.layers.0.self_attn.q_proj.weight": np.zeros((3, 4), np.float32)},
    )
    with pytest.raises(CheckpointError, match=r"q_proj.weight' has shape \(3, 4\)"):
        load_llama(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="found 0 .gguf"):
        load_llama(tmp_path)
