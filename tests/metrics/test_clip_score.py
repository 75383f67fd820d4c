"""CLIP scores against closed forms, brute force and bounds."""

import numpy as np
import pytest

from v2l_jax.metrics import clip_score


@pytest.fixture(scope="module")
def space():
    """37 images and 301 words of different lengths in 24 dimensions."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(37, 24)).astype(np.float32)
    words = (rng.normal(size=(301, 24)) * rng.uniform(0.1, 3, size=(301, 1))).astype(np.float32)
    return images, words


@pytest.fixture(scope="module")
def cosines(space):
    images, words = (vectors.astype(np.float64) for vectors in space)
    return (
        images @ words.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(words, axis=1)
    )


def test_score_is_the_mean_cosine_of_known_angles():
    angles = np.radians([0, 60, 90, 180])
    words = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32) * np.float32(
        [[1], [5], [0.1], [2]]
    )
    image = np.array([[3, 0]], np.float32)
    for ids, expected in (
        ([0], 1.0),
        ([1], 0.5),
        ([0, 1], 0.75),
        ([0, 1, 2, 3], 0.125),
        ([1, 1, 1], 0.5),
    ):
        np.testing.assert_allclose(
            clip_score.word_scores(image, words, np.array([ids])), [expected], atol=1e-6
        )


def test_score_equals_brute_force(space, cosines):
    ids = np.random.default_rng(1).integers(0, 301, (37, 21))
    np.testing.assert_allclose(
        clip_score.word_scores(*space, ids), np.take_along_axis(cosines, ids, 1).mean(1), atol=1e-6
    )


@pytest.mark.parametrize("blocks", [(512, 8192), (5, 7), (37, 301), (36, 300), (1, 1)], ids=str)
def test_bounds_equal_brute_force_for_any_blocks(space, cosines, blocks):
    bounds = clip_score.vocabulary_scores(*space, *blocks)
    np.testing.assert_allclose(bounds.best, cosines.max(1), atol=1e-6)
    np.testing.assert_allclose(bounds.worst, cosines.min(1), atol=1e-6)
    np.testing.assert_allclose(bounds.mean, cosines.mean(1), atol=1e-6)


def test_relative_scores_are_bounded_by_the_best_word(space, cosines):
    bounds = clip_score.vocabulary_scores(*space)
    order = np.argsort(-cosines, axis=1)
    best, worst = (clip_score.word_scores(*space, order[:, [column]]) for column in (0, -1))
    np.testing.assert_allclose(clip_score.relative_scores(best, bounds), 1, atol=1e-5)
    np.testing.assert_allclose(clip_score.normalized_scores(best, bounds), 1, atol=1e-5)
    np.testing.assert_allclose(clip_score.normalized_scores(worst, bounds), 0, atol=1e-5)
    nearest = clip_score.word_scores(*space, order[:, :5])
    np.testing.assert_allclose(
        clip_score.relative_scores(nearest, bounds),
        np.sort(cosines, 1)[:, -5:].mean(1) / cosines.max(1),
        atol=1e-5,
    )
    assert (clip_score.relative_scores(nearest, bounds) < 1).all()


def test_pair_score_is_the_cosine(space):
    images, words = space
    expected = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(images, words, strict=False)
    ]
    np.testing.assert_allclose(clip_score.pair_scores(images, words[:37]), expected, atol=1e-6)


def test_a_row_of_zeros_scores_zero():
    zeros = np.zeros((1, 4), np.float32)
    assert clip_score.pair_scores(np.ones((1, 4), np.float32), zeros).tolist() == [0.0]
