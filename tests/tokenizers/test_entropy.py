"""The entropy regulariser against its definition, with all probabilities at hand; its bounds;
devices; memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.tokenizers.entropy import entropy_loss

TEMPERATURE = 0.5


def _random(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def _plain(features, words, temperature=TEMPERATURE, library=jnp):
    """E[H(p)] − H(E[p]) as it is written."""
    flat = features.reshape(-1, features.shape[-1])
    logits = -((flat[:, None] - words[None]) ** 2).sum(-1) / temperature
    shares = library.exp(logits - logits.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True)
    entropy = lambda p: -(p * library.log(p + 1e-30)).sum(-1)
    return entropy(shares).mean() - entropy(shares.mean(0))


@pytest.mark.parametrize("tokens_at_once", [1, 20, 32, 10_000])
def test_value_and_gradients_are_those_of_the_definition(tokens_at_once):
    features, words = _random(0, 4, 4, 2, 8), _random(1, 37, 8)
    expected = _plain(np.asarray(features, np.float64), np.asarray(words, np.float64), library=np)
    value, gradients = jax.value_and_grad(
        lambda *x: entropy_loss(*x, TEMPERATURE, None, tokens_at_once), (0, 1)
    )(features, words)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert -np.log(37) < value < 0
    for found, plain in zip(gradients, jax.grad(_plain, (0, 1))(features, words)):
        np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-6)
        assert np.abs(plain).max() > 1e-3


def test_bounds():
    """Tokens sure of words that are used alike: −log(words). Tokens that are all alike: 0. Both
    with finite gradients.
    """
    words = 10 * jnp.eye(6)
    sure = jnp.tile(words, (4, 1)).reshape(4, 3, 2, 6)
    np.testing.assert_allclose(entropy_loss(sure, words, 0.01), -np.log(6), rtol=1e-5)
    same = jnp.ones((4, 3, 2, 6))
    np.testing.assert_allclose(entropy_loss(same, words, 0.01), 0, atol=1e-5)
    collapsed = jnp.broadcast_to(
        words[0], (4, 3, 2, 6)
    )  # five words whose share is 0 even in float32
    gradients = jax.grad(entropy_loss, (0, 1))(collapsed, words, 0.01)
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.mesh
@pytest.mark.parametrize(
    "axes", [{"data": 8}, {"data": 2, "tensor": 4}, {"fsdp": 2, "tensor": 2, "replica": 2}], ids=str
)
@pytest.mark.parametrize("count", [64, 101])
def test_devices_share_tokens_and_words(axes, count):
    mesh = make_mesh(axes)
    features, words = _random(0, 8, 4, 4, 16), _random(1, count, 16)
    placed = jax.device_put(features, NamedSharding(mesh, P(("replica", "data", "fsdp"))))
    found = jax.jit(jax.value_and_grad(lambda *x: entropy_loss(*x, TEMPERATURE, mesh, 8), (0, 1)))(
        placed, words
    )
    expected = jax.jit(jax.value_and_grad(lambda *x: entropy_loss(*x, TEMPERATURE), (0, 1)))(
        features, words
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected
    )


@pytest.mark.mesh
@pytest.mark.parametrize("axes", [{}, {"data": 2, "tensor": 4}], ids=str)
def test_no_array_holds_all_tokens_and_words(axes):
    """Neither forward nor backward; over devices, each holds its part of the words alone."""
    mesh = make_mesh(axes) if axes else None
    tokens, words, at_once = 8 * 256, 16_384, 32
    put = lambda shape, *spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)) if mesh else None
    )
    features, table = (
        put((8, 16, 16, 8), "data" if mesh else None),
        put((words, 8), "tensor" if mesh else None),
    )
    gradient = jax.jit(
        jax.value_and_grad(lambda *x: entropy_loss(*x, TEMPERATURE, mesh, at_once), (0, 1))
    )
    memory = gradient.lower(features, table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < tokens * words * 4 / 4 / (mesh.size if mesh else 1)
