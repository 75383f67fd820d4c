"""BERT and sentence encoder: parity with transformers, pooling, batching, real weights."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.fuzz.model_readers import bert_shapes
from v2l_jax.errors import CheckpointError
from v2l_jax.towers import bert
from v2l_jax.towers.text_batches import encode_in_buckets


def _torch_encode(model, torch, ids, lengths):
    mask = torch.tensor(np.arange(ids.shape[1]) < lengths[:, None])
    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=mask.long()).last_hidden_state.numpy()


def test_tiny_random_bert_matches_transformers(torch, tmp_path):
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        initializer_range=0.4,  # large weights make a wrong layer visible
    )
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, params = bert.load_bert(tmp_path)
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 50, (4, 9)).astype(np.int32), np.array([9, 1, 5, 7], np.int32)
    expected = _torch_encode(theirs, torch, ids.astype(np.int64), lengths)
    result = np.asarray(ours.apply({"params": params}, jnp.asarray(ids), jnp.asarray(lengths)))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(result[row, :length], expected[row, :length], atol=1e-4, rtol=0)


def test_real_minilm_matches_transformers(torch, asset):
    import transformers

    path = asset("minilm-l6-v2")
    encoder = bert.load_sentence_encoder(path)
    theirs = transformers.BertModel.from_pretrained(path).eval()
    texts = ["a photo of a cat", "x", "Residual networks were introduced in 2015, and never left."]
    for text, vector in zip(texts, encoder.encode_texts(texts)):
        ids = np.array([encoder.tokenizer.encode(text).ids])
        hidden = _torch_encode(theirs, torch, ids, np.array([ids.shape[1]]))[0]
        expected = hidden.mean(0) / np.linalg.norm(hidden.mean(0))
        np.testing.assert_allclose(vector, expected, atol=1e-5, rtol=0)


def test_real_minilm_places_similar_sentences_nearer(asset):
    vectors = bert.load_sentence_encoder(asset("minilm-l6-v2")).encode_texts(
        [
            "A man is eating food.",
            "Someone has a meal.",
            "The stock market fell.",
            "Shares lost much value today.",
        ]
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4 > similarity[0, 2:].max()
    assert similarity[2, 3] > 0.4 > similarity[2, :2].max()


def test_bfloat16_matmuls_stay_near_float32(asset):
    texts = ["a cat", "a photo of a dog in a park", "pizza"]
    exact = bert.load_sentence_encoder(asset("minilm-l6-v2")).encode_texts(texts)
    rounded = bert.load_sentence_encoder(asset("minilm-l6-v2"), jnp.bfloat16).encode_texts(texts)
    assert 0.999 < (exact * rounded).sum(axis=1).min() < 1 - 1e-8


def test_long_text_is_cut_to_max_length(asset):
    encoder = bert.load_sentence_encoder(asset("minilm-l6-v2"), max_length=10)
    assert len(encoder.tokenizer.encode("cat " * 300).ids) == 10
    vectors = encoder.encode_texts(["cat " * 300, "cat " * 8])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_mean_pool_ignores_padding():
    hidden = jnp.array([[[3.0, 0.0], [0.0, 4.0], [99.0, 99.0]]])
    np.testing.assert_allclose(bert.mean_pool(hidden, jnp.array([2])), [[0.6, 0.8]], atol=1e-6)


def test_buckets_keep_order_and_bound_shapes():
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 9, length).tolist() for length in rng.integers(1, 40, 57)]
    shapes = set()

    def encode(ids, lengths):
        shapes.add(ids.shape)
        assert (ids[np.arange(ids.shape[1]) >= lengths[:, None]] == 0).all()
        return jnp.stack([ids.sum(axis=1), lengths], axis=1)

    result = encode_in_buckets(sequences, encode, batch_size=8, description="test")
    np.testing.assert_array_equal(result, [[sum(s), len(s)] for s in sequences])
    assert len({length for _, length in shapes}) <= 7 and max(rows for rows, _ in shapes) <= 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no config.json"),
        ({"model_type": "roberta"}, "not a 'bert'"),
        ({"model_type": "bert", "hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
    ],
)
def test_other_directories_are_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        bert.load_bert(tmp_path)


SIZES = {
    "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30,
    "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    "settings, tensors, message",
    [
        (
            {},
            {"encoder.layer.0.output.adapter.weight": (4, 4)},
            "1 of .* tensors belong to nothing",
        ),
        ({}, {"encoder.layer.1.output.dense.weight": (4, 8)}, "belong to nothing.*layer.1"),
        ({"vocab_size": 31}, {}, "token_embedding has shape .30, 4., but config.json says .31, 4."),
        ({"intermediate_size": 6}, {}, "intermediate has shape"),
        ({"layer_norm_eps": float("nan")}, {}, "finite"),
        ({}, {"embeddings.word_embeddings.weight": None}, "no tensor 'embeddings.word_embeddings"),
        ({}, {"encoder.layer.0.output.dense.bias": (3, 4)}, ""),
    ],
)
def test_what_a_bert_does_not_have_is_refused(tmp_path, settings, tensors, message):
    shapes = {k: v for k, v in (bert_shapes(SIZES) | tensors).items() if v is not None}
    save_file({k: np.ones(v, "f4") for k, v in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | SIZES | settings))
    if message:
        with pytest.raises(CheckpointError, match=message):
            bert.load_bert(tmp_path)
