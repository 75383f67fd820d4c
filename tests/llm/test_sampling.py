"""Draws against the distribution that the definition gives."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from v2l_jax.errors import ConfigError
from v2l_jax.llm.sampling import Sampling, draw, gumbel_noise

LOGITS = np.array([2.0, -1.0, 0.5, 3.0, -np.inf, 1.5, 0.0, 2.5], np.float32)


def distribution(logits, sampling):
    """Temperature, then the k likeliest, then the shortest head that reaches top_p, by the
    definition.
    """
    with np.errstate(over="ignore"):
        weights = np.exp(logits.astype(np.float64) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    kept = list(order[: sampling.top_k or len(order)])
    weights = weights / weights[kept].sum()
    while len(kept) > 1 and weights[kept[:-1]].sum() >= sampling.top_p:
        kept.pop()
    out = np.zeros(len(logits))
    out[kept] = weights[kept] / weights[kept].sum()
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(2.0, 5, 0.8),
        Sampling(top_k=99, top_p=1e-6),
    ],
)
def test_draws_follow_the_distribution(sampling):
    rows = 20_000
    noise = gumbel_noise(jnp.int32(3), jnp.arange(rows), 1, len(LOGITS))
    drawn = np.asarray(draw(jnp.tile(LOGITS, (rows, 1)), noise, sampling))
    expected = distribution(LOGITS, sampling)
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert counts[expected == 0].sum() == 0
    if (expected > 0).sum() > 1:
        assert stats.chisquare(counts[expected > 0], rows * expected[expected > 0]).pvalue > 1e-3


def test_noise_depends_on_seed_index_and_step_alone():
    noise = lambda seed, indices, step: np.asarray(
        gumbel_noise(jnp.int32(seed), jnp.asarray(indices), step, 5)
    )
    first = noise(1, [0, 1, 2], 0)
    np.testing.assert_array_equal(noise(1, [7, 2, 1], 0)[1:], first[[2, 1]])
    for other in (noise(2, [0, 1, 2], 0), noise(1, [0, 1, 2], 1), first[[1, 2, 0]]):
        assert (other != first).all()


def test_order_of_nearly_equal_logits_does_not_matter():
    """What another mesh's rounding may do: two tokens change rank, the draw stays."""
    logits = jnp.tile(jnp.asarray([1.0, 1.0 + 1e-6, 0.9]), (500, 1))
    noise = gumbel_noise(jnp.int32(0), jnp.arange(500), 0, 3)
    sampling = Sampling(top_k=2)
    swapped = logits.at[:, 0].add(2e-6)
    np.testing.assert_array_equal(draw(logits, noise, sampling), draw(swapped, noise, sampling))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "greedy"),
        (dict(top_k=0), "top_k"),
        (dict(top_p=0.0), "top_p"),
        (dict(top_p=1.1), "top_p"),
        (dict(seed=-1), "seed"),
    ],
)
def test_values_outside_their_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)
