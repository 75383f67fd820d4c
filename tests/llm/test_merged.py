"""A tuned model as a Hugging Face checkpoint: our network on its tensors, and transformers' own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tiny_models import sentencepiece, write_llm
from v2l_jax.errors import ConfigError
from v2l_jax.llm.adapter_step import NEW_ROWS, tuned_params
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import rotary_frequencies
from v2l_jax.llm.lora import PROJECTIONS, Lora, init_adapters
from v2l_jax.llm.merged import huggingface_tensors, write_merged
from v2l_jax.llm.text_tokenizers import load_text_tokenizer

LORA = Lora(2, 6.0, PROJECTIONS)
NAMES = ("<visual_0>", "<visual_1>", "<img>")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def tuned(request, tmp_path_factory):
    """The folder that was written, token ids with new words among them, and the tuned model's
    logits.
    """
    home = tmp_path_factory.mktemp("models")
    base = write_llm(home / "base", request.param, sentencepiece(360), context=64)
    config, params = load_llama(base)
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.2, jnp.float32),
        init_adapters(jax.random.key(0), config, LORA),
    )
    rows = rng.normal(size=(3, config.hidden_size)).astype(np.float32)
    ids = np.array([[1, 310, 7, config.vocab_size, config.vocab_size + 2, 9, 200]])
    changed = tuned_params(params, {**adapters, NEW_ROWS: {"rows": rows}}, LORA.scale)
    logits = _logits(Llama(config), changed, ids)
    said, tokenizer = json.loads((base / "config.json").read_text()), load_text_tokenizer(base)
    write_merged(home / "merged", said, config, params, LORA, adapters, rows, tokenizer, NAMES)
    return home / "merged", ids, logits


def _logits(model, params, ids):
    hidden, _ = model.apply({"params": params}, jnp.asarray(ids), jnp.arange(ids.shape[1])[None])
    return np.asarray(model.apply({"params": params}, hidden, method="logits"))[0]


def test_the_checkpoint_answers_as_the_tuned_model(tuned):
    folder, ids, logits = tuned
    config, params = load_llama(folder)
    found = _logits(Llama(config), params, ids)
    assert found.shape[1] == logits.shape[1] + 3 and not found[:, -3:].any()
    np.testing.assert_allclose(found[:, :-3], logits, atol=2e-5)
    tokenizer = load_text_tokenizer(folder)
    assert [tokenizer.token_text(config.vocab_size - 3 + i) for i in range(3)] == list(NAMES)


def test_transformers_loads_it_and_answers_alike(torch, tuned):
    import transformers

    folder, ids, logits = tuned
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = peer(torch.tensor(ids)).logits[0].numpy()
    np.testing.assert_allclose(found[:, :-3], logits, atol=2e-4)
    pipeline = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert pipeline.encode("<visual_1>", add_special_tokens=False) == [ids[0, 3] + 1]


def test_tensors_are_those_that_were_read(tmp_path):
    base = write_llm(tmp_path / "base", "qwen2", sentencepiece(360), context=64)
    config, params = load_llama(base)
    found, wanted = huggingface_tensors(config, params), load_file(base / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_scaled_rotary_frequencies_of_gguf_are_refused(tmp_path):
    base = write_llm(tmp_path / "base", "llama", sentencepiece(360), context=64)
    config, params = load_llama(base)
    scaled = rotary_frequencies(8, 1e4, {"rope_type": "linear", "factor": 2.0})
    changed = dataclasses.replace(config, inverse_frequencies=scaled)
    tokenizer = load_text_tokenizer(base)
    with pytest.raises(ConfigError, match="rotary frequencies are scaled"):
        write_merged(tmp_path, None, changed, params, LORA, {}, None, tokenizer, ())
    write_merged(tmp_path / "made", None, config, params, LORA, {}, None, tokenizer, ())
    made = load_llama(tmp_path / "made")[0]
    assert made == dataclasses.replace(config, inverse_frequencies=made.inverse_frequencies)
    np.testing.assert_allclose(made.inverse_frequencies, config.inverse_frequencies, rtol=1e-6)
