"""Checkpoints as users have them: quantised, with tensors or settings of other networks, with a
config.json that is damaged or silent. They load right, or one line says what is wrong.
"""

import codecs
import json

import ml_dtypes
import numpy as np
import pytest
import transformers

from tests.llm import llama_folder
from v2l_jax.errors import CheckpointError, ConfigError, V2LError
from v2l_jax.formats.torch_files import read_torch
from v2l_jax.llm.llama import load_llama
from v2l_jax.llm.llama_config import config_from_huggingface

_Q = "model.layers.0.self_attn.q_proj"


def _quantised(kind):
    """The tiny checkpoint's weights with one matrix as a quantiser stores it."""
    weights = llama_folder.tensors()
    matrix = weights.pop(f"{_Q}.weight")
    whole = np.round(matrix * 30).astype(np.int8)
    return (
        weights
        | {
            "int8 alone": {f"{_Q}.weight": whole},
            "compressed-tensors": {f"{_Q}.weight": whole, f"{_Q}.weight_scale": matrix[:, :1]},
            "bitsandbytes int8": {f"{_Q}.weight": whole, f"{_Q}.SCB": matrix[:, 0].copy()},
            "bitsandbytes nf4": {
                f"{_Q}.weight": np.zeros((32, 1), np.uint8),
                f"{_Q}.weight.absmax": matrix[0],
                f"{_Q}.weight.quant_state.bitsandbytes__nf4": np.zeros(9, np.uint8),
            },
            "gptq": {f"{_Q}.qweight": np.zeros((1, 8), np.int32), f"{_Q}.scales": matrix[:1]},
            "mlx": {
                f"{_Q}.weight": np.zeros((8, 1), np.uint32),
                f"{_Q}.scales": matrix[:, :1],
                f"{_Q}.biases": matrix[:, :1],
            },
            "hqq": {f"{_Q}.W_q": np.zeros((4, 8), np.uint8), f"{_Q}.meta": matrix[:1]},
            "mxfp4": {
                f"{_Q}.weight_blocks": np.zeros((4, 8), np.uint8),
                f"{_Q}.weight_scales": np.zeros(4, np.uint8),
            },
            "of a new kind": {f"{_Q}.packed_somehow": np.zeros((4, 8), np.uint8)},
            "fp8 as floats": {f"{_Q}.weight": matrix, f"{_Q}.weight_scale_inv": matrix[:1, :1]},
            "fp8": {f"{_Q}.weight": matrix.astype(ml_dtypes.float8_e4m3fn)},
        }[kind]
    )


@pytest.mark.parametrize(
    "kind",
    [
        "int8 alone", "compressed-tensors", "bitsandbytes int8", "bitsandbytes nf4", "gptq", "mlx",
        "fp8 as floats", "fp8", "hqq", "mxfp4", "of a new kind",
    ],
)  # fmt: skip
def test_quantised_weights_are_refused_as_such_even_where_the_config_is_silent(kind, tmp_path):
    with pytest.raises(V2LError, match="quantised.*unquantised repository"):
        load_llama(llama_folder.write(tmp_path, weights=_quantised(kind)))


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization": {"group_size": 64, "bits": 4}},
        {"compression_config": {"format": "int-quantized"}},
        {"torch_dtype": "float8_e4m3fn"},
    ],
)
def test_a_config_that_says_quantised_is_believed(change, tmp_path):
    with pytest.raises(ConfigError, match="config.json: quantised"):
        load_llama(llama_folder.write(tmp_path, llama_folder.CONFIG | change))


def test_a_quantisers_file_beside_the_weights_is_believed(tmp_path):
    llama_folder.write(tmp_path)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    with pytest.raises(ConfigError, match="quantize_config.json says that .* quantised"):
        load_llama(tmp_path)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("model.layers.2.self_attn.q_proj.weight", (8, 8)),
        ("model.layers.0.self_attn.q_norm.weight", (4,)),
        ("model.layers.0.self_attn.o_proj.bias", (8,)),
        ("vision_tower.patch.weight", (3,)),
    ],
)
def test_tensors_that_are_not_read_are_counted_and_named(name, shape, tmp_path):
    weights = llama_folder.tensors() | {name: np.ones(shape, np.float32)}
    with pytest.raises(CheckpointError, match=f"1 of 22 tensors .*{name}"):
        load_llama(llama_folder.write(tmp_path, weights=weights))


def test_buffers_of_old_checkpoints_are_passed_over(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights = llama_folder.tensors() | {name: np.ones(2, np.float32)}
    load_llama(llama_folder.write(tmp_path, weights=weights))


def test_an_output_that_is_not_the_embedding_is_not_dropped(tmp_path):
    tied = llama_folder.CONFIG | {"tie_word_embeddings": True}
    with pytest.raises(CheckpointError, match="differs"):
        load_llama(llama_folder.write(tmp_path / "a", tied))
    weights = llama_folder.tensors()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    load_llama(llama_folder.write(tmp_path / "b", tied, weights))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_what_a_config_does_not_say_is_what_transformers_assumes(kind):
    ours = config_from_huggingface({"model_type": kind})
    theirs = transformers.AutoConfig.for_model(kind)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.hidden_size == theirs.hidden_size
    assert ours.intermediate_size == theirs.intermediate_size
    assert ours.num_layers == theirs.num_hidden_layers
    assert (ours.num_heads, ours.num_kv_heads) == (
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
    )
    assert ours.context_length == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert ours.tied_embeddings == theirs.tie_word_embeddings


def test_layer_types_say_where_the_window_begins():
    qwen = {"model_type": "qwen2", "use_sliding_window": True, "num_hidden_layers": 3}
    types = ["full_attention", "sliding_attention", "sliding_attention"]
    said = config_from_huggingface(qwen | {"layer_types": types})
    assert (said.sliding_window, said.first_sliding_layer) == (4096, 1)
    with pytest.raises(ConfigError, match="layer_types"):
        config_from_huggingface(qwen | {"layer_types": types[::-1]})


def test_a_byte_order_mark_is_read(tmp_path):
    llama_folder.write(tmp_path)
    text = json.dumps(llama_folder.CONFIG)
    for content in (codecs.BOM_UTF8 + text.encode(), text.encode("utf-16")):
        (tmp_path / "config.json").write_bytes(content)
        assert load_llama(tmp_path)[0].hidden_size == 8


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b'{"model_type": "llama", "vocab', "not valid JSON"),
        (b"[1]", "holds a list, but must hold an object"),
        (b'{"x": "\xe9"}', "0xe9 is not UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_config_is_one_line(content, message, tmp_path):
    llama_folder.write(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(V2LError, match=f"config.json.*{message}") as caught:
        load_llama(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "'factor' is \"2\""),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ({"rope_scaling": ["linear"]}, "must be an object"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8,
                }
            },
            "high_freq_factor is 4.0, but must be above",
        ),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, but must be positive"),
        ({"hidden_size": "8"}, "'hidden_size' is \"8\""),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 query heads"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "not a multiple of 3 heads"),
        ({"model_type": {}}, "model_type {} is not of the LLaMA family"),
        ({"head_dim": 1 << 40}, "heads of width 1,099,511,627,776 cannot be"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rms_norm_eps": float("nan")}, "finite"),
        ({"rope_theta": float("inf")}, "finite"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not known"),
        ({"embedding_multiplier": 12}, "embedding_multiplier=12 is not known"),
        ({"use_qk_norm": True}, "use_qk_norm=True is not known"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": 3}, "'layer_types'"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_key(change, message):
    with pytest.raises(ConfigError, match=f"^config.json: .*{message}"):
        config_from_huggingface(llama_folder.CONFIG | change)


def test_settings_that_change_nothing_are_passed_over():
    more = {"unsloth_version": "2026.1", "logits_scaling": 1.0, "num_experts": 0, "qk_norm": False}
    assert config_from_huggingface(llama_folder.CONFIG | more) == config_from_huggingface(
        llama_folder.CONFIG
    )


def test_files_of_other_layouts_say_which_to_take(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama_folder.CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(V2LError, match="pytorch_model.bin must be saved as safetensors"):
        load_llama(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("model.safetensors", "m.gguf"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(V2LError, match=f"{name} is a pointer of Git LFS.*git lfs pull"):
            load_llama(tmp_path if name[-1] == "s" else tmp_path / name)
    with pytest.raises(V2LError, match="Git LFS"):
        read_torch(tmp_path / "m.gguf")
