"""The file of visual words, and how features are prepared for them."""

import dataclasses

import numpy as np
import pytest

from v2l_jax.codebook.visual_vocabulary import (
    PreparedPoints,
    VisualVocabulary,
    inliers,
    preparation,
    prepared,
)
from v2l_jax.errors import CheckpointError, ConfigError

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(500, 6)).astype(np.float32) * [5, 1, 1, 1, 0.1, 3] + 7
MEAN, MATRIX = preparation(FEATURES, 3, True)
WORDS = VisualVocabulary(
    prepared(FEATURES[:9], MEAN, MATRIX, True), MEAN, MATRIX, True,
    {"tower": "dinov2-s", "layer": 9}, {"usage": 1.0},
)  # fmt: skip


def test_saved_words_come_back(tmp_path):
    WORDS.save(tmp_path / "w.safetensors")
    again = VisualVocabulary.load(tmp_path / "w.safetensors")
    for field in dataclasses.fields(WORDS):
        np.testing.assert_equal(getattr(again, field.name), getattr(WORDS, field.name))
    np.testing.assert_array_equal(again.words(FEATURES[:9]), np.arange(9))


def test_words_are_the_nearest_of_prepared_features():
    x = WORDS.prepare(FEATURES)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    expected = [np.argmin([np.sum((p - c) ** 2) for c in WORDS.centres]) for p in x]
    np.testing.assert_array_equal(WORDS.words(FEATURES), expected)


def test_whitened_components_are_the_largest_and_of_variance_one():
    x = prepared(FEATURES, MEAN, MATRIX, False)
    np.testing.assert_allclose(np.cov(x.T, bias=True), np.eye(3), atol=1e-3)
    plain = prepared(FEATURES, *preparation(FEATURES, 2, False), False)
    _, singular, _ = np.linalg.svd(FEATURES - FEATURES.mean(0))
    np.testing.assert_allclose(plain.var(0), singular[:2] ** 2 / 500, rtol=1e-3)
    np.testing.assert_allclose(
        prepared(FEATURES, *preparation(FEATURES, 0, False), False),
        FEATURES - FEATURES.mean(0),
        atol=1e-4,
    )


def test_patches_of_great_norm_are_outliers():
    features = np.ones((101, 4)) * np.linspace(1, 1.1, 101)[:, None]
    features[50] *= 30
    np.testing.assert_array_equal(np.flatnonzero(~inliers(features, 4)), [50])


def test_words_of_another_tower_or_layer_are_refused(tmp_path):
    WORDS.check_made_with({"tower": "dinov2-s"}, "w")
    with pytest.raises(ConfigError, match="layer is 9, not 6; tower is 'dinov2-s', not 'vit'"):
        WORDS.check_made_with({"tower": "vit", "layer": 6}, "w")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="run the vocabulary job first"):
        VisualVocabulary.load(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot read the visual words"):
        VisualVocabulary.load(tmp_path / "x")


def test_points_are_prepared_as_they_are_read():
    points = PreparedPoints(FEATURES, MEAN, MATRIX, True)
    whole = prepared(FEATURES, MEAN, MATRIX, True)
    assert (len(points), points.shape) == (500, whole.shape)
    for rows in (slice(3, 9), np.array([7, 2, 400])):
        np.testing.assert_allclose(points[rows], whole[rows], atol=1e-6)
