"""RoBERTa from input vectors: parity with transformers, hidden states, logits and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import CheckpointError
from v2l_jax.towers.roberta import load_masked_language_model


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_tiny_random_model_matches_transformers(torch, tmp_path, kind):
    import transformers

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        initializer_range=0.4,  # large weights make a wrong layer visible
        layer_norm_eps=1e-5,
    )
    name = {"roberta": "Roberta", "bert": "Bert"}[kind]
    config = getattr(transformers, f"{name}Config")(**sizes)
    theirs = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, params = load_masked_language_model(tmp_path)
    params = jax.device_put(params)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 50, (3, 9))
    if kind == "roberta":
        ids[1, 3], ids[2, 0] = 1, 1  # pad tokens in the middle move positions
    with torch.no_grad():
        asked = dict(input_ids=torch.tensor(ids), output_hidden_states=True)
        found = theirs(**asked, attention_mask=torch.ones(ids.shape, dtype=torch.long))
        table = theirs.get_input_embeddings().weight.numpy()
    np.testing.assert_array_equal(ours.embeddings(params), table)
    hidden = ours.hidden(params, jnp.asarray(table[ids]), jnp.asarray(ids, jnp.int32))
    np.testing.assert_allclose(hidden, found.hidden_states[-1].numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(ours.logits(params, hidden), found.logits.numpy(), atol=5e-4, rtol=0)
    assert ours.longest == (18 if kind == "roberta" else 20)


def test_the_embedded_berts_mask_and_missing_head(asset):
    model, params = load_masked_language_model(asset("minilm-l6-v2"), "minilm-l6-v2")
    assert model.mask_id == 103 and not model.has_head and model.pad_id is None
    assert params["token_embedding"]["embedding"].shape == (30_522, 384)


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="'gpt2' model, not a 'roberta'"):
        load_masked_language_model(tmp_path)
