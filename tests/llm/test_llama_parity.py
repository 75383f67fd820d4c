"""The LLaMA tower against transformers' torch models: tiny random networks of every family, and the
real SmolLM2.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: make test-parity runs this file"
)

from tests.huggingface_smollm2 import load_peer  # noqa: E402
from v2l_jax.llm.llama import Llama, load_llama  # noqa: E402

pytestmark = pytest.mark.parity

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "smollm2_greedy.json"
_SIZES = dict(
    vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
    max_position_embeddings=256
)  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_BASE_100K = {"rope_type": "default", "rope_theta": 100000.0}
FAMILIES = {
    "llama1": ("Llama", dict(rms_norm_eps=1e-6)),
    "llama3": ("Llama", dict(num_key_value_heads=2, rope_parameters=_LLAMA3, head_dim=16)),
    "smollm2": (
        "Llama",
        dict(num_key_value_heads=3, tie_word_embeddings=True, rope_parameters=_BASE_100K),
    ),
    "linear": (
        "Llama",
        dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    ),
    "mistral": ("Mistral", dict(num_key_value_heads=2, sliding_window=7)),
    "qwen2": ("Qwen2", dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen2-window": (
        "Qwen2",
        dict(num_key_value_heads=2, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family, tmp_path):
    import transformers

    architecture, extra = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        **(_SIZES | extra), attn_implementation="eager"
    )
    peer = getattr(transformers, f"{architecture}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name))
    peer.save_pretrained(tmp_path, max_shard_size="40kB")  # several shards

    tokens = np.random.default_rng(0).integers(0, 97, (2, 40))
    with torch.no_grad():
        expected = peer(torch.from_numpy(tokens)).logits.numpy()
    config, params = load_llama(tmp_path)
    positions = jnp.broadcast_to(jnp.arange(40), (2, 40))
    model = Llama(config)
    hidden, _ = model.apply({"params": params}, jnp.asarray(tokens), positions)
    actual = model.apply({"params": params}, hidden, method="logits")
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_real_weights_logits_and_greedy_tokens(asset):
    path = asset("smollm2-135m-instruct")
    peer = load_peer(path)
    config, params = load_llama(path)
    model = Llama(config)

    @jax.jit
    def forward(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, jnp.arange(96)[None])
        return model.apply({"params": params}, hidden, method="logits")

    for case in json.loads(GOLDEN.read_text()):
        sequence = np.array([case["prompt"] + case["new"]])
        with torch.no_grad():
            expected = peer(torch.from_numpy(sequence)).logits.numpy()
        actual = forward(params, np.pad(sequence, ((0, 0), (0, 96 - sequence.shape[1]))))[
            :, : sequence.shape[1]
        ]
        np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=0)
        for logits in (
            actual,
            expected,
        ):  # argmax after every token: greedy decoding writes these 64 tokens
            assert np.argmax(logits[0, len(case["prompt"]) - 1 : -1], -1).tolist() == case["new"]
