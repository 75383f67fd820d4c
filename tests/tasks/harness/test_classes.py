"""Classes get the names that a language model knows; shots are ordered by likeness."""

import numpy as np

from v2l_jax.data.episodes import draw_episodes
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.errors import AssetError
from v2l_jax.run import loading
from v2l_jax.tasks.harness.classes import class_names, named_labels, nearest_last, shown_names


def test_wordnet_ids_get_english_names_and_doubles_are_left_out(asset):
    assert class_names(["n02123045", "n01440764", "mine"], {"n01440764": "a fish"}) == {
        "n02123045": "tabby",
        "n01440764": "a fish",
        "mine": "mine",
    }

    classes = ("n02012849", "n03126707", "n02123045")  # the bird, the machine, a cat
    photos = loading.Photos(
        SyntheticSource(4, 8, 0, classes), SyntheticSource(2, 8, 1, classes), (), "made up"
    )
    labels, names = named_labels(photos, {})
    assert names == ["crane", "tabby"] and labels.tolist() == [0, -1, 1, 0, 0, -1]


def test_a_page_without_the_names_shows_the_ids(monkeypatch):
    def offline(name):
        raise AssetError(f"asset {name} cannot be downloaded")

    monkeypatch.setattr(loading, "locate", offline)
    assert shown_names(["n02123045", "mine"]) == ["n02123045", "mine"]


def test_the_most_similar_shot_comes_last():
    labels = np.repeat(np.arange(3), 8)
    vectors = np.random.default_rng(1).standard_normal((24, 6)).astype(np.float32)
    episodes = draw_episodes(labels, ("a", "b", "c"), 3, 2, 20, seed=0)
    for before, after in zip(episodes, nearest_last(episodes, vectors), strict=True):
        products = [vectors[shot.index] @ vectors[after.query.index] for shot in after.shots]
        assert products == sorted(products) and len(set(products)) == 6
        assert set(before.shots) == set(after.shots) and (before.query, before.class_names) == (
            after.query,
            after.class_names,
        )
    assert any(b != a for b, a in zip(episodes, nearest_last(episodes, vectors), strict=True))
