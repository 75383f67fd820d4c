"""Searches against brute force."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from v2l_jax.ops import nearest
from v2l_jax.ops.nearest import in_latent_space, nearest_row, nearest_rows
from v2l_jax.parallel.mesh import make_mesh


def _random(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def _distances(features, words):
    """float64, by subtraction."""
    return (
        (np.asarray(features, np.float64)[:, None] - np.asarray(words, np.float64)[None]) ** 2
    ).sum(-1)


@pytest.mark.parametrize("block_size", [1, 7, 64, 99, 100, 1000])
def test_blocked_search_equals_brute_force(block_size):
    features, words = _random(0, 33, 16), _random(1, 100, 16)
    found = nearest_row(features, words, block_size)
    np.testing.assert_array_equal(found, _distances(features, words).argmin(1))


def test_padding_is_never_chosen():
    """The zero vector would be nearest to small features if the padded rows counted."""
    features, words = 1e-3 * _random(0, 8, 4), 5.0 + _random(1, 10, 4) ** 2
    found = nearest_row(features, words, block_size=7)
    np.testing.assert_array_equal(found, _distances(features, words).argmin(1))


@pytest.mark.parametrize("block_size", [2, 3, 100])
def test_lowest_index_wins_a_tie(block_size):
    words = jnp.tile(_random(0, 1, 4), (9, 1))
    np.testing.assert_array_equal(nearest_row(_random(1, 5, 4), words, block_size), np.zeros(5))


def test_distance_matrix_is_never_whole():
    """No array of the compiled search holds tokens × words."""
    features = jax.ShapeDtypeStruct((512, 8), jnp.float32)
    words = jax.ShapeDtypeStruct((32_768, 8), jnp.float32)
    memory = nearest_row.lower(features, words, 1024).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 512 * 32_768 * 4 / 4


@pytest.mark.mesh
@pytest.mark.parametrize(
    "axes",
    [{"tensor": 8}, {"data": 2, "tensor": 4}, {"fsdp": 4, "tensor": 2}, {"data": 8}],
    ids=str,
)
@pytest.mark.parametrize("count", [3, 64, 101])
def test_search_over_devices_equals_brute_force(axes, count):
    """Vocabularies that divide over the devices, do not, and leave some without a word."""
    features, words = _random(0, 32, 16), _random(1, count, 16)
    found = nearest_row(features, words, 7, make_mesh(axes))
    np.testing.assert_array_equal(found, _distances(features, words).argmin(1))


@pytest.mark.mesh
def test_lowest_index_wins_a_tie_between_devices():
    words = jnp.tile(_random(0, 3, 4), (7, 1))
    found = nearest_row(_random(1, 16, 4), words, 2, make_mesh({"data": 2, "tensor": 4}))
    np.testing.assert_array_equal(found, nearest_row(_random(1, 16, 4), words[:3]))


@pytest.mark.mesh
def test_devices_exchange_two_numbers_a_feature():
    """The compiled search talks twice, for the words' mean and for what each device found; neither
    grows with the words.
    """
    mesh = make_mesh({"data": 2, "tensor": 4})
    put = lambda shape, *spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec))
    )
    text = (
        nearest_row.lower(put((64, 8), "data"), put((4096, 8), "tensor"), 512, mesh)
        .compile()
        .as_text()
    )
    assert re.findall(
        r"(\S+) (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", text
    ) == [("f32[8]{0}", "all-reduce"), ("s32[4,2,32]{2,1,0}", "all-gather")]


def test_several_rows_come_nearest_first():
    embeddings, words = _random(0, 5, 16), _random(1, 80, 16)
    found = nearest_rows(embeddings, words, 7)
    np.testing.assert_array_equal(found, _distances(embeddings, words).argsort(1)[:, :7])


@pytest.mark.mesh
def test_search_in_latent_space_equals_brute_force_in_word_space():
    """Features are scaled affine images of latents; longer words, so that the lengths matter."""
    latents, kernel, bias, words = (
        _random(0, 40, 6),
        _random(1, 6, 24),
        _random(2, 24),
        _random(3, 150, 24),
    )
    scale = 0.05 + _random(4, 40) ** 2
    features = scale[:, None] * (latents @ kernel + bias)
    *pair, lengths = in_latent_space(latents, scale, kernel, bias, words)
    np.testing.assert_allclose(
        pair[0] @ pair[1].T, features @ (words - words.mean(axis=0)).T, rtol=1e-4, atol=1e-3
    )
    expected = _distances(features, words).argmin(1)
    assert len(set(expected.tolist())) > 10
    for mesh in (None, make_mesh({"data": 2, "tensor": 4})):
        np.testing.assert_array_equal(nearest_row(*pair, 64, mesh, lengths), expected)


def test_features_that_almost_agree():
    """An untrained encoder's features point one way, and a refitted codebook's words with them:
    what they share does not decide.
    """
    latents, kernel, bias = 0.005 * _random(0, 2048, 32), _random(1, 32, 64), 4 * _random(2, 64)
    features = np.asarray(latents, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(
        bias, np.float64
    )
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    features /= lengths
    words = jnp.asarray(
        features.mean(axis=0) + features.std(axis=0) * np.random.RandomState(3).randn(500, 64),
        jnp.float32,
    )
    expected = _distances(features, words).argmin(1)
    scale = jnp.asarray(1 / lengths[:, 0], jnp.float32)
    *pair, squared_lengths = in_latent_space(latents, scale, kernel, bias, words)
    for found in (
        nearest_row(*pair, squared_lengths=squared_lengths),
        nearest_row(jnp.asarray(features, jnp.float32), words),
    ):
        assert (found != expected).mean() < 2e-3


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
def test_any_number_of_features(count):
    """A CPU takes them 256 at a time."""
    features, words = _random(0, count, 8), _random(1, 90, 8)
    np.testing.assert_array_equal(
        nearest_row(features, words, 32), _distances(features, words).argmin(1)
    )


def test_products():
    queries, rows = _random(0, 9, 8), _random(1, 91, 8)
    products = np.asarray(queries, np.float64) @ np.asarray(rows, np.float64).T
    np.testing.assert_array_equal(
        nearest.top_products(queries, rows, 6), (-products).argsort(1)[:, :6]
    )
    np.testing.assert_allclose(
        nearest.extreme_products(queries, rows.reshape(7, 13, 8)),
        [products.max(1), products.min(1)],
        rtol=1e-5,
    )


@pytest.mark.parametrize("switch", ["on", "off"])
def test_cpu_form_is_switched_by_the_environment(switch, monkeypatch):
    """The search 256 queries at a time is a loop of the compiled program; the common one has
    none.
    """
    monkeypatch.setenv("V2L_JAX_CPU_FORMS", switch)
    jax.clear_caches()
    arguments = _random(0, 300, 8), _random(1, 90, 8)
    program = nearest_row.lower(*arguments).compile().as_text()
    assert ("while" in program) == (switch == "on")
    np.testing.assert_array_equal(nearest_row(*arguments), _distances(*arguments).argmin(1))
    jax.clear_caches()
