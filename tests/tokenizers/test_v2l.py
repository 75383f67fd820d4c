"""The tokenizer as a module: sizes of the paper's model, precision, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tokenizers import short_training
from v2l_jax.tokenizers import V2LTokenizer, decode, tokenize
from v2l_jax.tokenizers.autoencoder import UpsampleConv, attention_levels
from v2l_jax.tokenizers.v2l import V2L
from v2l_jax.training.discriminator import PatchDiscriminator

_SMALL = {
    "channels": 32,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "z_channels": 8,
    "attn_resolutions": (),
    "word_dim": 16,
    "num_local_words": 40,
    "num_global_words": 12,
}


@pytest.fixture(scope="module")
def small():
    """A small model, its variables, images and embeddings."""
    model, random = V2LTokenizer(**_SMALL), np.random.RandomState(0)
    image = jnp.asarray(random.rand(2, 16, 16, 3) * 2 - 1, jnp.float32)
    embeddings = jnp.asarray(random.randn(2, 16), jnp.float32)
    shapes = jax.eval_shape(
        lambda *inputs: model.init(jax.random.key(0), *inputs, 3), image, embeddings
    )["params"]
    params = jax.tree.map(
        lambda leaf: 0.1 * jnp.asarray(random.randn(*leaf.shape), jnp.float32), shapes
    )
    words = {
        "local_words": jnp.asarray(random.randn(40, 16), jnp.float32),
        "global_words": jnp.asarray(random.randn(12, 16), jnp.float32),
    }
    return model, {"params": params, "frozen": words}, image, embeddings


def _count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_papers_model_has_the_published_number_of_parameters():
    """Numbers counted in the published PyTorch modules: Encoder, Decoder (with its last
    convolution), discriminator.
    """
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    image_embedding = jax.ShapeDtypeStruct((1, 768), jnp.float32)
    model = V2LTokenizer()
    shapes = jax.eval_shape(
        lambda *inputs: model.init(jax.random.key(0), *inputs, 21), image, image_embedding
    )
    params = shapes["params"]
    assert _count(params["encoder"]) == 26_455_936
    assert _count(params["decoder"]) + _count(params["conv_out"]) == 48_746_499
    assert _count(params["projector"]) == 768 * 768 + 768
    assert jax.tree.map(jnp.shape, shapes["frozen"]) == {
        "local_words": (32_000, 768),
        "global_words": (11_908, 768),
    }
    tokens = jax.eval_shape(
        lambda v, *inputs: model.apply(v, *inputs, 21, method="tokenize"),
        shapes,
        image,
        image_embedding,
    )
    assert (tokens.local_ids.shape, tokens.global_ids.shape) == ((1, 16, 16), (1, 21))
    discriminator = jax.eval_shape(
        lambda x: PatchDiscriminator().init(jax.random.key(0), x, False), image
    )
    assert _count(discriminator["params"]) == 663_361


def test_attention_is_placed_by_the_nominal_resolution():
    assert attention_levels((1, 2, 2, 4), (16,), 256) == (False, False, False, False)
    assert attention_levels((1, 2, 2, 4), (16,), 64) == (False, False, True, False)
    assert attention_levels((1, 2), (64, 32), 64) == (True, True)


def test_upsampling_is_repeated_pixels_then_a_convolution():
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(2, 5, 3, 32), jnp.float32)
    kernel, bias = (
        jnp.asarray(random.randn(3, 3, 32, 32), jnp.float32),
        jnp.asarray(random.randn(32), jnp.float32),
    )
    repeated = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)
    layout = ("NHWC", "HWIO", "NHWC")
    expected = (
        jax.lax.conv_general_dilated(repeated, kernel, (1, 1), "SAME", dimension_numbers=layout)
        + bias
    )
    result = UpsampleConv().apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_bfloat16_keeps_words_and_images_float32(small):
    model, variables, image, embeddings = small
    rough = model.clone(dtype=jnp.bfloat16)
    encode = jax.jit(lambda model, *inputs: model.apply(*inputs, method="encode"), static_argnums=0)
    features = encode(rough, variables, image)
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), 1.0, rtol=1e-5)
    exact = encode(model, variables, image)
    assert 0 < float(jnp.abs(features - exact).max()) < 0.05
    tokens = tokenize(model, variables, image, embeddings, 3)
    picture, rough_picture = decode(model, variables, tokens), decode(rough, variables, tokens)
    assert rough_picture.dtype == jnp.float32
    difference = jnp.linalg.norm(picture - rough_picture) / jnp.linalg.norm(picture)
    assert 0 < float(difference) < 0.05


def test_tokens_of_an_image_do_not_depend_on_the_batch(small):
    model, variables, image, embeddings = small
    both = tokenize(model, variables, image, embeddings, 3)
    second = tokenize(model, variables, image[1:], embeddings[1:], 3)
    np.testing.assert_array_equal(both.local_ids[1:], second.local_ids)
    np.testing.assert_array_equal(both.global_ids[1:], second.global_ids)


def test_decoding_uses_both_kinds_of_words(small):
    model, variables, image, embeddings = small
    tokens = tokenize(model, variables, image, embeddings, 3)
    picture = decode(model, variables, tokens)
    for changed in (
        tokens.replace(global_ids=(tokens.global_ids + 1) % 12),
        tokens.replace(local_ids=(tokens.local_ids + 1) % 40),
    ):
        assert float(jnp.abs(decode(model, variables, changed) - picture).max()) > 1e-4


def test_a_decoder_without_global_words_sees_local_ones_alone(small):
    model, variables, image, embeddings = small
    tokens = tokenize(model, variables, image, embeddings, 3)
    local = model.clone(cross_attention_heads=0)
    params = jax.eval_shape(
        lambda *inputs: local.init(jax.random.key(0), *inputs, 3), image, embeddings
    )["params"]
    with_global = variables["params"]["decoder"]["middle"]
    assert with_global.keys() - params["decoder"]["middle"].keys() == {"cross_attention"}
    middle = {name: with_global[name] for name in params["decoder"]["middle"]}
    decoder = variables["params"]["decoder"] | {"middle": middle}
    own = variables | {"params": variables["params"] | {"decoder": decoder}}
    picture = decode(local, own, tokens)
    other = tokens.replace(global_ids=(tokens.global_ids + 1) % 12)
    np.testing.assert_array_equal(decode(local, own, other), picture)
    changed = tokens.replace(local_ids=(tokens.local_ids + 1) % 40)
    assert float(jnp.abs(decode(local, own, changed) - picture).max()) > 1e-4
    assert V2L(model).decoded_streams == ("global", "local")
    assert V2L(local).decoded_streams == ("local",)


def test_images_without_a_semantic_tower_are_refused(small):
    model, variables, image, _ = small
    with pytest.raises(ValueError, match="no semantic tower"):
        tokenize(model, variables, image, image, 3)


def test_in_bfloat16_the_word_chosen_is_the_one_nearest_to_the_feature_scored():
    """Both come from the same rounding of the latents."""
    model = V2LTokenizer(
        channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        z_channels=16,
        attn_resolutions=(),
        resolution=32,
        word_dim=24,
        num_local_words=400,
        num_global_words=8,
        dtype=jnp.bfloat16,
    )
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), image, jnp.ones((2, 24)), 2)
    words = rng.standard_normal((400, 24)).astype(np.float32) / 3
    variables["frozen"]["local_words"] = jnp.asarray(words)

    @jax.jit
    def both(variables):
        latents = model.apply(variables, image, method="latents")
        return [model.apply(variables, latents, method=name) for name in ("features", "local_ids")]

    features, ids = (np.asarray(x, np.float64) for x in both(variables))
    projector = jax.tree.map(np.float64, variables["params"]["projector"])
    placed = words @ projector["kernel"] + projector["bias"]
    distances = np.sum((features.reshape(-1, 1, 24) - placed) ** 2, -1)
    found = distances[np.arange(len(distances)), ids.reshape(-1).astype(int)]
    np.testing.assert_allclose(found, distances.min(1), rtol=1e-5)
    assert len(np.unique(ids)) > 3


def test_four_levels_train_on_32_pixels():
    """A 4 × 4 map: once reported to end the process in its first steps."""
    random = np.random.RandomState(0)
    sizes = _SMALL | {"channel_multipliers": (1, 1, 1, 1), "block_size": 16}
    words = {
        "local": random.randn(40, 16).astype("f4"),
        "global": random.randn(12, 16).astype("f4"),
    }
    tokenizer = V2L(V2LTokenizer(**sizes), global_tokens=3)
    batch = {
        "image": random.rand(2, 32, 32, 3).astype("f4") * 2 - 1,
        "image_embedding": random.randn(2, 16).astype("f4"),
    }
    rows, variables = short_training.train(tokenizer, tokenizer.frozen(words), batch, 4, 1e-3)
    assert jax.eval_shape(tokenizer.encode, variables, batch)["local"].shape == (2, 4, 4)
    assert rows[-1]["loss"] < rows[0]["loss"]
