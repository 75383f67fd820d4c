"""GGUF models as they are published: in parts, LoRA files, files without sizes or word splitter;
and SentencePiece's own tokenizer.model.
"""

import gguf
import numpy as np
import pytest

from tests.llm import llama_folder
from v2l_jax.errors import AssetError, ConfigError, V2LError
from v2l_jax.formats.gguf_files import read_gguf
from v2l_jax.llm.llama import load_llama
from v2l_jax.llm.llama_config import config_from_gguf
from v2l_jax.llm.llama_weights import GGUF_NAMES, HUGGINGFACE_NAMES
from v2l_jax.llm.text_tokenizers import load_text_tokenizer

SIZES = {
    "block_count": 2,
    "context_length": 16,
    "embedding_length": 8,
    "feed_forward_length": 12,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
}


def _tensors():
    """The tiny model's weights by GGUF's names."""
    ours = llama_folder.tensors()
    pairs = [(HUGGINGFACE_NAMES[key], GGUF_NAMES[key]) for key in GGUF_NAMES]
    named = {hf.format(i): name.format(i) for hf, name in pairs for i in range(2)}
    return {named[name]: value for name, value in ours.items()}


def _write(path, tensors, sizes=None, split=None, extra=None):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (SIZES if sizes is None else sizes).items():
        writer.add_uint32(f"llama.{key}", value)
    if sizes is None:
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in (extra or {}).items():
        writer.add_string(key, value)
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _in_parts(folder, total=21):
    folder.mkdir()
    parts = [{}, {}]
    for name, array in _tensors().items():
        parts[name == "output.weight"][name] = array
    return [
        _write(folder / f"m-0000{i + 1}-of-00002.gguf", part, None if i == 0 else {}, (i, 2, total))
        for i, part in enumerate(parts)
    ]


def test_parts_are_one_model_whichever_is_named(tmp_path):
    whole_config, whole = load_llama(_write(tmp_path / "m.gguf", _tensors()))
    parts = _in_parts(tmp_path / "parts")
    for path in (*parts, tmp_path / "parts"):
        config, params = load_llama(path)
        assert config == whole_config and not config.tied_embeddings
        np.testing.assert_array_equal(params["output"], whole["output"])


def test_missing_and_foreign_parts_are_one_line(tmp_path):
    first, second = _in_parts(tmp_path / "a")
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(AssetError, match="one of 2 parts, of which 1 are missing: m-00002-of"):
        load_llama(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(AssetError, match="is not part 2 of 2"):
        read_gguf(first)
    second.write_bytes(kept)
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(AssetError, match="is one of 2 parts; put all beside it"):
        read_gguf(tmp_path / "renamed.gguf")
    with pytest.raises(AssetError, match="hold 21 tensors, but should hold 30"):
        read_gguf(_in_parts(tmp_path / "b", total=30)[0])


def test_several_models_in_a_folder_are_named(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        _write(tmp_path / name, _tensors())
    with pytest.raises(AssetError, match="holds 2 GGUF models .a.gguf, b.gguf."):
        load_llama(tmp_path)


@pytest.mark.parametrize(
    "sizes, extra, message",
    [
        ({}, {}, "lacks 'llama.attention.head_count'"),
        ({"attention.head_count": 2}, {}, "lacks 'llama.embedding_length'"),
        (None, {"general.type": "adapter"}, "no model but a 'adapter'"),
        (SIZES | {"attention.head_count": 0}, {}, "head_count is 0"),
        (SIZES | {"attention.head_count": 3}, {}, "not a multiple of 3 heads"),
        (SIZES | {"attention.key_length": 1 << 30}, {}, "heads of width 1,073,741,824 cannot be"),
        (SIZES | {"rope.dimension_count": 2}, {}, "part of a head"),
        (None, {"llama.context_length": "16"}, "'llama.context_length' is"),
    ],
)
def test_files_that_are_no_such_model_are_one_line(sizes, extra, message, tmp_path):
    if "llama.context_length" in extra:
        sizes = {k: v for k, v in SIZES.items() if k != "context_length"}
    path = _write(tmp_path / "m.gguf", _tensors(), sizes, extra=extra)
    with pytest.raises(ConfigError, match=f"m.gguf.*{message}"):
        load_llama(path)


def test_a_lora_of_llama_cpp_is_one_line(tmp_path):
    tensors = {"blk.0.attn_q.weight.lora_a": np.ones((2, 8), np.float32)}
    with pytest.raises(V2LError, match="no tensor token_embd.weight"):
        load_llama(_write(tmp_path / "m.gguf", tensors))


@pytest.mark.parametrize("left_out", ["tokenizer.ggml.pre", "tokenizer.ggml.model"])
def test_a_file_that_does_not_say_how_it_cuts_words_is_one_line(left_out, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if left_out != "tokenizer.ggml.model":
        writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(AssetError, match=f"{left_out} is missing"):
        load_text_tokenizer(tmp_path / "m.gguf")


def _train(folder, **options):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(
            ["a photo of a dog and a cat", "two cats on a red mat, one dog"] * 9
        ),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("sentencepiece"))


def test_symbols_around_which_texts_are_cut_otherwise_are_refused(tmp_path):
    with pytest.raises(AssetError, match="user-defined symbols"):
        load_text_tokenizer(_train(tmp_path, user_defined_symbols=["<img>"]))


@pytest.mark.parametrize(
    "text", ["a photo of a dog", " cats", "two  dogs on mats", "é\n🐱", "", "adog"]
)
def test_a_tokenizer_model_alone_splits_as_sentencepiece_does(sentencepiece_model, text):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_model / "tokenizer.model")
    )
    ours = load_text_tokenizer(sentencepiece_model)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.vocab_size == theirs.vocab_size()
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id(), theirs.eos_id())
    assert ours.encode_prompt("a")[0] == theirs.bos_id()


@pytest.mark.parametrize("content", [b"", b"IQ== 0\nIg== 1\n", bytes(range(256))])
def test_what_is_no_tokenizer_model_is_one_line(content, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(AssetError, match="tokenizer.model is not a .*SentencePiece model"):
        load_text_tokenizer(tmp_path)


def test_linear_scaling_by_its_older_name(tmp_path):
    """llama.cpp reads %s.rope.scale_linear where rope.scaling.factor is missing."""
    metadata = {f"llama.{key}": value for key, value in SIZES.items()}
    metadata |= {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-5}
    plain = config_from_gguf(metadata, _tensors()).inverse_frequencies
    scaled = config_from_gguf(metadata | {"llama.rope.scale_linear": 4.0}, _tensors())
    np.testing.assert_allclose(scaled.inverse_frequencies, np.asarray(plain) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"logit_scale": 0.5}, "llama.logit_scale=0.5 is not known"),
        ({"attention.clamp_kqv": 8.0}, "clamp_kqv|not known"),
        ({"rope.scaling.attn_factor": 1.3}, "attn_factor=1.3"),
        ({"attention.sliding_window": "x"}, 'sliding_window\' is "x"'),
        ({"attention.layer_norm_rms_epsilon": 0.0}, "must be positive"),
        ({"vocab_size": 11, "rope.scaling.attn_factor": 1.0, "attention.value_length": 4}, ""),
    ],
)
def test_keys_that_change_the_network_are_refused(change, message):
    metadata = {f"llama.{key}": value for key, value in SIZES.items()}
    metadata |= {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-5}
    metadata |= {f"llama.{key}": value for key, value in change.items()}
    if not message:
        assert config_from_gguf(metadata, _tensors()).num_layers == 2
        return
    with pytest.raises(ConfigError, match=message):
        config_from_gguf(metadata, _tensors())
