"""Inception Score: the definition by brute force, and its extremes."""

import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.metrics.inception_score import inception_score


def test_equals_the_definition():
    logits = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) * 3
    scores = []
    for part in (logits[:25], logits[25:]):
        p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        divergence = [sum(pi * np.log(pi / mi) for pi, mi in zip(row, p.mean(0))) for row in p]
        scores.append(np.exp(np.mean(divergence)))
    row = inception_score(logits, splits=2, task="x")
    assert row.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert row.measured_on["splits_sd"] == pytest.approx(np.std(scores), rel=1e-5)
    assert (row.metric, row.count, row.measured_on["task"]) == ("inception_score", 50, "x")
    assert row.ci95[0] < row.value < row.ci95[1]


def test_sure_and_even_images_score_the_number_of_classes_and_blank_ones_score_one():
    sure = np.tile(np.eye(8, dtype=np.float32) * 1000, (5, 1))
    assert inception_score(sure, splits=5).value == pytest.approx(8, rel=1e-9)
    assert inception_score(np.zeros((40, 8), np.float32)).value == pytest.approx(1, rel=1e-12)


def test_more_splits_than_images_are_refused():
    with pytest.raises(DataError, match="needs at least 10 images, got 9"):
        inception_score(np.zeros((9, 8), np.float32))
