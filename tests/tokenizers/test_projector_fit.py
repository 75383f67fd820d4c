"""What moves the projector: its moments against the features', its regression against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.tokenizers.projector_fit import fit_projector, recenter_projector, revive_words


def sample(rng, count, dim):
    return rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def test_moments_of_projected_words_are_those_of_the_features():
    rng = np.random.default_rng(0)
    words, features = sample(rng, 400, 12), 0.1 * sample(rng, 900, 12)
    fitted = fit_projector(jnp.asarray(words, jnp.float32), jnp.asarray(features, jnp.float32))
    projected = words @ np.asarray(fitted["kernel"], np.float64) + np.asarray(
        fitted["bias"], np.float64
    )
    np.testing.assert_allclose(projected.mean(0), features.mean(0), atol=2e-5)
    np.testing.assert_allclose(
        np.cov(projected.T), np.cov(features.T), atol=1e-3 * np.cov(features.T).max()
    )


def test_features_on_fewer_axes_than_dimensions_stay_finite():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 6))
    fitted = fit_projector(
        jnp.asarray(flat, jnp.float32), jnp.asarray(sample(rng, 80, 6), jnp.float32)
    )
    assert all(np.isfinite(np.asarray(value)).all() for value in fitted.values())


def projector_of(rng, dim):
    return {
        "kernel": jnp.asarray(rng.normal(size=(dim, dim)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=dim), jnp.float32),
    }


def project(projector, words):
    return words.astype(np.float64) @ np.asarray(projector["kernel"], np.float64) + np.asarray(
        projector["bias"], np.float64
    )


def test_recentred_words_have_the_features_mean_and_deviation_and_keep_their_places():
    rng = np.random.default_rng(2)
    words, features = (x.astype("f4") for x in (sample(rng, 300, 12), 0.1 * sample(rng, 500, 12)))
    old = projector_of(rng, 12)
    before, after = (
        project(old, words),
        project(recenter_projector(old, jnp.asarray(words), jnp.asarray(features)), words),
    )
    np.testing.assert_allclose(after.mean(0), features.mean(0), atol=1e-5)
    np.testing.assert_allclose(after.std(0), features.std(0), rtol=1e-4)
    standard = lambda x: (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(standard(after), standard(before), atol=1e-3)


def test_features_that_are_all_alike_stay_finite_and_can_be_left_again():
    rng = np.random.default_rng(3)
    words, features = (jnp.asarray(sample(rng, count, 6), jnp.float32) for count in (300, 500))
    collapsed = recenter_projector(projector_of(rng, 6), words, jnp.ones_like(features))
    again = project(recenter_projector(collapsed, words, features), np.asarray(words))
    np.testing.assert_allclose(again.std(0), features.std(0), rtol=1e-3)


@pytest.mark.parametrize("share_used", [0.0, 0.3])
def test_revival_is_the_ridge_regression_of_the_definition(share_used):
    """In float64, by brute force: unused words want to go to their nearest feature, used ones to
    stay.
    """
    rng = np.random.default_rng(4)
    words, features, old = (
        sample(rng, 200, 8).astype("f4"),
        0.1 * sample(rng, 90, 8).astype("f4"),
        projector_of(rng, 8),
    )
    used = rng.random(200) < share_used
    new = revive_words(old, jnp.asarray(words), jnp.asarray(features), jnp.asarray(used))
    before = project(old, words)
    nearest = features[((before[:, None] - features[None]) ** 2).sum(-1).argmin(1)]
    wishes = np.where(used[:, None], 0.0, nearest - before)
    inputs = np.concatenate([words, np.ones((200, 1))], 1).astype(np.float64)
    ridge = 1e-4 * np.trace(inputs.T @ inputs) / 9
    rows = np.concatenate([inputs, np.sqrt(ridge) * np.eye(9)])
    change = np.linalg.lstsq(rows, np.concatenate([wishes, np.zeros((9, 8))]), rcond=None)[0]
    np.testing.assert_allclose(new["kernel"] - old["kernel"], change[:-1], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(new["bias"] - old["bias"], change[-1], rtol=2e-3, atol=2e-3)
    gap = lambda points: np.sqrt(((points[:, None] - features[None]) ** 2).sum(-1).min(1))[
        ~used
    ].mean()
    assert gap(project(new, words)) < 0.8 * gap(before)


def test_nothing_moves_where_every_word_is_used():
    rng = np.random.default_rng(5)
    words, features = (jnp.asarray(sample(rng, count, 6), jnp.float32) for count in (40, 50))
    old = projector_of(rng, 6)
    new = revive_words(old, words, features, jnp.ones(40, bool))
    for name in old:
        np.testing.assert_array_equal(new[name], old[name])
