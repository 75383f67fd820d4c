"""The released layout: forward parity with the published code on its golden cases, and what a bad
file gets.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import CheckpointError
from v2l_jax.tokenizers import ImageTokens, decode, load_reference, tokenize
from v2l_jax.tokenizers.reference import (
    discriminator_from_reference,
    parameter_path,
    tokenizer_from_reference,
)


@pytest.fixture(scope="module")
def tokenizer(case):
    return tokenizer_from_reference(case.arrays)


def test_sizes_are_inferred(tokenizer):
    model, _ = tokenizer
    assert (model.channels, model.channel_multipliers) == (32, (1, 2, 2, 4))
    assert (model.num_res_blocks, model.z_channels) == (1, 32)
    assert (model.word_dim, model.num_local_words, model.num_global_words) == (768, 300, 200)
    assert model.cross_attention_heads == 8
    assert [model.resolution >> level for level in range(4)].index(model.attn_resolutions[0]) == 2


def test_a_checkpoint_without_cross_attention_decodes_local_words_alone(case):
    arrays = {n: a for n, a in case.arrays.items() if "cross_attn" not in n}
    model, variables = tokenizer_from_reference(arrays)
    assert model.cross_attention_heads == 0
    assert "cross_attention" not in variables["params"]["decoder"]["middle"]


def test_words_match_the_published_code(case, tokenizer):
    model, variables = tokenizer
    expected = case.expected["all_tokens"]
    tokens = tokenize(model, variables, case.nhwc("image_nchw"), case.nhwc("clip_image_nchw"), 5)
    np.testing.assert_array_equal(tokens.global_ids, expected[:, :5])
    assert np.mean(np.asarray(tokens.local_ids).reshape(2, -1) == expected[:, 5:]) >= 0.999


def test_precomputed_embeddings_give_the_same_words(case, tokenizer):
    model, variables = tokenizer
    tokens = tokenize(model, variables, case.nhwc("image_nchw"), case.expected["clip_global"], 5)
    np.testing.assert_array_equal(tokens.global_ids, case.expected["all_tokens"][:, :5])


def test_features_match_the_published_code(case, tokenizer):
    model, variables = tokenizer
    features = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(
        variables, case.nhwc("image_nchw")
    )
    np.testing.assert_allclose(features, case.nhwc("quant_conv_normalized"), atol=1e-5)


def test_decoded_words_match_the_published_reconstruction(case, tokenizer):
    model, variables = tokenizer
    tokens = case.expected["all_tokens"].astype(np.int32)
    image = decode(model, variables, ImageTokens(tokens[:, :5], tokens[:, 5:].reshape(2, 8, 8)))
    np.testing.assert_allclose(image, case.nhwc("recon"), atol=2e-4)


def test_large_golden_checkpoint(golden):
    """The real file format, with more words and other weights."""
    model, variables = load_reference(golden / "v2l_reference_small.pth")
    expected = np.load(golden / "v2l_reference_small.npz")
    image, clip_image, reconstruction = (
        expected[name].transpose(0, 2, 3, 1) for name in ("image_nchw", "clip_image_nchw", "recon")
    )
    tokens = tokenize(model, variables, image, clip_image, 5)
    np.testing.assert_array_equal(tokens.global_ids, expected["all_tokens"][:, :5])
    assert (
        np.mean(np.asarray(tokens.local_ids).reshape(2, -1) == expected["all_tokens"][:, 5:])
        >= 0.999
    )
    np.testing.assert_allclose(decode(model, variables, tokens), reconstruction, atol=2e-4)


def test_discriminator_in_evaluation_mode(golden):
    """Running statistics, not the batch's."""
    from v2l_jax.tokenizers.reference import read_reference

    discriminator, variables = discriminator_from_reference(
        read_reference(golden / "v2l_reference_small.pth")
    )
    expected = np.load(golden / "v2l_reference_small.npz")
    logits = discriminator.apply(
        variables, jnp.asarray(expected["image_nchw"].transpose(0, 2, 3, 1)), train=False
    )
    np.testing.assert_allclose(
        logits, expected["disc_logits_eval"].transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5
    )


def test_every_published_name_has_a_place(case):
    trained = set(map(str, case.expected["grad_names"]))
    paths = {name: parameter_path(name) for name in case.arrays}
    assert {name for name, path in paths.items() if path is not None} == trained
    assert len({path for path in paths.values() if path is not None}) == len(trained) == 221


def test_missing_array_is_named(case):
    arrays = dict(case.arrays)
    del arrays["tok_embeddings.weight"]
    with pytest.raises(CheckpointError, match="tok_embeddings.weight"):
        tokenizer_from_reference(arrays)


def test_arrays_that_do_not_fit_are_named(case):
    arrays = case.arrays | {"decoder.norm_out.weight": np.ones(7, np.float32)}
    with pytest.raises(CheckpointError, match=r"decoder/norm_out/scale has shape \(7,\).*\(32,\)"):
        tokenizer_from_reference(arrays)


def test_the_former_import_goes_on():
    from v2l_jax import tokenizer, tokenizers

    assert tokenizer.load_reference is tokenizers.load_reference
    with pytest.raises(AttributeError, match="has no attribute 'load_nothing'"):
        tokenizer.load_nothing  # noqa: B018
