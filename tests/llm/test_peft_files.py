"""Adapters on disk: read and written as the `peft` package does, on torch models; what does not fit
is refused by name.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from v2l_jax.errors import CheckpointError
from v2l_jax.llm.adapter_step import NEW_ROWS, tuned_params
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import PROJECTIONS, Lora, init_adapters, scaled
from v2l_jax.llm.peft_files import (
    CONFIG_FILE,
    TENSOR_FILE,
    load_adapters,
    load_new_rows,
    save_adapters,
)

CONFIG = LlamaConfig(50, 32, 48, 2, 6, 2, 8, 128, 1e-5, rotary_frequencies(8, 10000.0))


def _random_adapters(config, lora):
    adapters = init_adapters(jax.random.key(1), config, lora)
    leaves, structure = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        structure, [0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny Llama of random weights, grouped queries and a head size of its own."""
    torch = pytest.importorskip(
        "torch", reason="PyTorch is not installed: make test-parity runs this test"
    )
    pytest.importorskip("peft", reason="peft is not installed: make test-parity runs this test")
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16,
        max_position_embeddings=128, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name))
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


def _theirs(torch, model, tokens):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens)).logits.numpy()


def _ours(base, lora, adapters, tokens):
    config, params = load_llama(base)
    model = Llama(config)
    hidden, _ = model.apply(
        {"params": params},
        jnp.asarray(tokens),
        jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        adapters=scaled(adapters, lora.scale),
    )
    return np.asarray(model.apply({"params": params}, hidden, method="logits"))


TOKENS = np.random.default_rng(0).integers(0, 97, (2, 20))


@pytest.mark.parametrize(
    "targets, stabilised",
    [(("q_proj", "k_proj"), False), (PROJECTIONS, False), (PROJECTIONS, True)],
)
def test_adapters_that_peft_saved_give_its_logits(torch, base, targets, stabilised, tmp_path):
    import peft
    import transformers

    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    plain = _theirs(torch, model, TOKENS)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=32,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        use_rslora=stabilised,
    )
    model = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path)
    expected = _theirs(torch, model, TOKENS)
    lora, adapters = load_adapters(tmp_path, load_llama(base)[0])
    scale = 16.0 if stabilised else 8.0
    assert (lora.rank, lora.scale, set(lora.targets)) == (4, scale, set(targets))
    assert np.abs(expected - plain).max() > 0.1
    np.testing.assert_allclose(_ours(base, lora, adapters, TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("targets", [("q_proj", "k_proj"), ("v_proj", "o_proj", "down_proj")])
def test_peft_reads_what_we_save(torch, base, targets, tmp_path):
    import peft
    import transformers

    lora = Lora(3, 4.5, targets)
    config, _ = load_llama(base)
    adapters = jax.tree.map(lambda x: 0.3 * x, _random_adapters(config, lora))
    save_adapters(tmp_path, adapters, lora, "tiny")
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    plain = _theirs(torch, model, TOKENS)
    expected = _theirs(torch, peft.PeftModel.from_pretrained(model, tmp_path), TOKENS)
    assert np.abs(expected - plain).max() > 0.01
    np.testing.assert_allclose(_ours(base, lora, adapters, TOKENS), expected, atol=1e-4, rtol=0)


def test_saved_adapters_come_back_bit_for_bit(tmp_path):
    lora = Lora(3, 7.0, ("q_proj", "down_proj"))
    adapters = _random_adapters(CONFIG, lora)
    save_adapters(tmp_path, adapters, lora, "tiny")
    again, loaded = load_adapters(tmp_path, CONFIG)
    assert again == lora
    jax.tree.map(np.testing.assert_array_equal, loaded, adapters)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG_FILE, TENSOR_FILE]


def _edit_config(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_tensors(folder, change):
    tensors = load_file(folder / TENSOR_FILE)
    change(tensors)
    save_file(tensors, folder / TENSOR_FILE)


_Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_SPOILED = {
    "another rank": (lambda f: _edit_config(f, r=8), rf"{_Q0} has shape \(3, 32\), but this LLM "
                                                     r"at rank 8 needs \(8, 32\)"),
    "another kind": (lambda f: _edit_config(f, peft_type="IA3"), "kind 'IA3'"),
    "a variant": (lambda f: _edit_config(f, use_dora=True), "use_dora=True is not supported"),
    "other targets": (lambda f: _edit_config(f, target_modules=["q_proj"]), r"\['q_proj'\], but "
                                                                            r"the tensors are of "
                                                                            r"\['k_proj', "
                                                                            r"'q_proj'\]"),
    "no JSON": (lambda f: (f / CONFIG_FILE).write_text("{"), "not a readable PEFT adapter config"),
    "no tensors": (lambda f: (f / TENSOR_FILE).unlink(), f"has no {TENSOR_FILE}"),
    "a missing tensor": (lambda f: _edit_tensors(f, lambda t: t.pop(_Q0)), f"lacks {_Q0}"),
    "a foreign tensor": (lambda f: _edit_tensors(f, lambda t: t.update({"x": t[_Q0]})),
    "x is no LoRA of"),
    "more layers": (lambda f: _edit_tensors(f, lambda t: t.update({_Q0.replace(".0.",
    ".2."): t[_Q0]})), "9 tensors, but 2 layers need 8"),
}  # fmt: skip


@pytest.mark.parametrize("spoiled", _SPOILED)
def test_what_does_not_fit_is_refused(spoiled, tmp_path):
    lora = Lora(rank=3)
    save_adapters(tmp_path, _random_adapters(CONFIG, lora), lora, "tiny")
    spoil, message = _SPOILED[spoiled]
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_adapters(tmp_path, CONFIG)


# What PEFT 0.21 writes into every adapter_config.json besides.
_OF_PEFT = {
    "alora_invocation_tokens": None, "arrow_config": None, "auto_mapping": None,
    "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "kasa_config": None, "layers_pattern": None, "loftq_config": {},
    "lora_bias": False, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "monteclora_config": None, "peft_version": "0.21.2",
    "qalora_group_size": 16, "revision": None, "target_parameters": None,
    "trainable_token_indices": None, "use_bdlora": None, "use_qalora": False,
    "velora_config": None, "init_lora_weights": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    lora = Lora(rank=3)
    save_adapters(folder, _random_adapters(CONFIG, lora), lora, "tiny")
    return folder


def _changed(plain, folder, **changes):
    settings = json.loads((plain / CONFIG_FILE).read_text()) | _OF_PEFT | changes
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    (folder / TENSOR_FILE).write_bytes((plain / TENSOR_FILE).read_bytes())
    return folder


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_initialisations_that_leave_the_base_alone_are_plain_lora(start, plain, tmp_path):
    lora, adapters = load_adapters(_changed(plain, tmp_path, init_lora_weights=start), CONFIG)
    assert lora.rank == 3
    expected = load_file(plain / TENSOR_FILE)[_Q0]
    np.testing.assert_array_equal(adapters["q_proj"]["lora_A"][0], expected)


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga", "mica", "tomorrow's"]
)
def test_initialisations_that_change_the_base_are_refused_with_the_way_out(start, plain, tmp_path):
    with pytest.raises(CheckpointError, match=f"init_lora_weights=.{start}.*merge_and_unload"):
        load_adapters(_changed(plain, tmp_path, init_lora_weights=start), CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"alora_invocation_tokens": [5, 6]},
        {"use_qalora": True},
        {"lora_bias": True},
        {"loftq_config": {"loftq_bits": 4}},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["mlp.w"]},
        {"megatron_config": {"x": 1}},
        {"kasa_config": {"beta": 1e-4}},
        {"task_type": "SEQ_CLS"},
        {"fan_in_fan_out": True},
        {"tomorrows_variant": 0.5},
    ],
)
def test_unknown_settings_and_values_are_refused_by_name(change, plain, tmp_path):
    with pytest.raises(CheckpointError, match=f"{next(iter(change))}=.*merge_and_unload"):
        load_adapters(_changed(plain, tmp_path, **change), CONFIG)


def test_a_setting_of_tomorrow_that_is_off_passes(plain, tmp_path):
    load_adapters(_changed(plain, tmp_path, tomorrows_variant=None, another=False), CONFIG)


def test_a_config_without_its_rank_is_one_line(plain, tmp_path):
    with pytest.raises(CheckpointError, match="'r' is \"3\", but must be of type int"):
        load_adapters(_changed(plain, tmp_path, r="3"), CONFIG)


@pytest.mark.parametrize("tied", [True, False])
def test_peft_reads_new_rows_beside_adapters(torch, base, tied, tmp_path):
    """As trainable tokens of a base model that was resized; logits of the base's own tokens."""
    import peft
    import transformers

    config = transformers.LlamaConfig.from_pretrained(base, tie_word_embeddings=tied)
    model = transformers.LlamaForCausalLM.from_pretrained(base, config=config)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "base")
    lora, sizes = Lora(3, 4.5, ("q_proj", "v_proj")), load_llama(tmp_path / "base")[0]
    adapters = jax.tree.map(lambda x: 0.3 * x, _random_adapters(sizes, lora))
    rows = np.random.default_rng(1).normal(size=(4, 48)).astype(np.float32)
    save_adapters(tmp_path / "lora", adapters, lora, "tiny", rows, sizes.vocab_size)
    np.testing.assert_array_equal(load_new_rows(tmp_path / "lora", sizes), rows)
    model.resize_token_embeddings(97 + 4, mean_resizing=False)
    tokens = np.random.default_rng(2).integers(0, 101, (2, 12))
    theirs = _theirs(torch, peft.PeftModel.from_pretrained(model, tmp_path / "lora"), tokens)
    llama = Llama(sizes)
    again, loaded = load_adapters(tmp_path / "lora", sizes)
    changes = {**loaded, NEW_ROWS: {"rows": rows}}
    params = tuned_params(load_llama(tmp_path / "base")[1], changes, again.scale)
    hidden, _ = llama.apply(
        {"params": params}, jnp.asarray(tokens), jnp.broadcast_to(jnp.arange(12), (2, 12))
    )
    ours = llama.apply({"params": params}, hidden, method="logits")
    np.testing.assert_allclose(ours, theirs[..., :97], atol=1e-4, rtol=0)


def test_new_rows_of_another_vocabulary_are_refused(tmp_path):
    lora = Lora(3, 7.0, ("q_proj",))
    adapters = _random_adapters(CONFIG, lora)
    save_adapters(tmp_path, adapters, lora, "tiny", np.zeros((2, 32), np.float32), 50)
    assert load_new_rows(tmp_path, CONFIG).shape == (2, 32)
    longer = dataclasses.replace(CONFIG, vocab_size=60)
    for read in (load_new_rows, load_adapters):
        with pytest.raises(CheckpointError, match=r"\[50, 51\]\} with 2 rows.*network's 60"):
            read(tmp_path, longer)
    save_adapters(tmp_path, adapters, lora, "tiny")
    assert load_new_rows(tmp_path, CONFIG) is None
