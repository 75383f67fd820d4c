"""ConSE: equation 3 by hand, class names, and a real tower that tells photos apart."""

import pathlib
import pickle
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import CheckpointError, DataError
from v2l_jax.towers import conse, image_text


def test_embedding_is_the_probability_weighted_mean_of_the_top_classes():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    vectors = jnp.eye(4)[:, :3].at[3].set(jnp.array([0.6, 0.8, 0.0]))
    two = conse.conse_embedding(logits, vectors, num_top_classes=2, temperature=1.0)
    np.testing.assert_allclose(two, np.array([[5, 3, 0]]) / np.sqrt(34), atol=1e-6)
    every = conse.conse_embedding(logits, vectors, num_top_classes=4, temperature=1.0)
    expected = np.array([0.5 + 0.05 * 0.6, 0.3 + 0.05 * 0.8, 0.15])
    np.testing.assert_allclose(every[0], expected / np.linalg.norm(expected), atol=1e-6)
    # temperature 2 takes square roots of the probabilities
    warm = conse.conse_embedding(logits, vectors, num_top_classes=2, temperature=2.0)
    np.testing.assert_allclose(warm, np.sqrt([[0.5, 0.3, 0]]) / np.sqrt(0.8), atol=1e-6)


def test_class_lemmas_follow_the_classifier_order(tmp_path):
    (tmp_path / "synsets.txt").write_text("n3\nn1\n")
    (tmp_path / "lemmas.txt").write_text("n1\ttench, Tinca tinca\nn2\tunused\nn3\tgoldfish\n")
    lemmas = conse.read_class_lemmas(tmp_path / "synsets.txt", tmp_path / "lemmas.txt")
    assert lemmas == [["goldfish"], ["tench", "Tinca tinca"]]
    (tmp_path / "synsets.txt").write_text("n3\nn9\n")
    with pytest.raises(DataError, match="no name for 1 classes of .*synsets.txt, first n9"):
        conse.read_class_lemmas(tmp_path / "synsets.txt", tmp_path / "lemmas.txt")


def count_letters(texts):
    """Stands for a sentence encoder: how many a and how many b."""
    counts = np.array([[text.count("a"), text.count("b")] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_class_names_are_embedded_by_first_lemma_or_mean():
    groups = [["a", "b"], ["b", "b", "a"], ["a"]]
    np.testing.assert_allclose(
        conse.embed_classes(count_letters, groups, "{}", "first"), [[1, 0], [0, 1], [1, 0]]
    )
    mean = conse.embed_classes(count_letters, groups, "{}", "mean")
    half, fifth = np.sqrt(0.5), np.sqrt(0.2)
    np.testing.assert_allclose(mean, [[half, half], [fifth, 2 * fifth], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(
        conse.embed_classes(count_letters, [["b"]], "a {}", "first"), [[half, half]], atol=1e-6
    )


@pytest.fixture(scope="module")
def assets(asset):
    """The four files of the embedded default tower."""
    return [
        asset(name)
        for name in ("efficientnet-lite2", "minilm-l6-v2", "imagenet-synsets", "imagenet-lemmas")
    ]


def test_real_tower_matches_photos_to_texts(assets):
    data = pytest.importorskip("skimage.data")
    tower = conse.load_conse(*assets)
    assert (tower.kind, tower.image_size, tower.dim) == ("conse", 260, 384)
    preprocess = pickle.loads(pickle.dumps(tower.preprocess))
    assert len(pickle.dumps(tower.preprocess)) < 1000, (
        "loader processes must not receive the parameters"
    )
    images = np.stack([preprocess(image) for image in (data.chelsea(), data.coffee())])
    assert images.shape == (2, 260, 260, 3) and images.dtype == np.float32
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
    vectors = np.asarray(jax.jit(tower.encode_image)(tower.params, images))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    texts = tower.encode_texts(
        ["a photo of a cat.", "a photo of a cup of coffee.", "a photo of a truck."]
    )
    assert (vectors @ texts.T).argmax(axis=1).tolist() == [0, 1]


def test_too_few_class_names_are_refused(assets, tmp_path):
    synsets = tmp_path / "synsets.txt"
    synsets.write_text("\n".join(assets[2].read_text().split()[:10]))
    with pytest.raises(CheckpointError, match="has 1000 outputs, .* names 10 classes"):
        conse.load_conse(assets[0], assets[1], synsets, assets[3])


def test_a_tower_is_opened_by_its_address(monkeypatch):
    """A file of the room with `open_tower` is all that a new tower needs."""

    def opened(*given):
        return image_text.ImageTextTower("tiny", "siglip", 8, 4, given, abs, max, max)

    siglip = types.SimpleNamespace(NEEDS_WEIGHTS=True, open_tower=opened)
    monkeypatch.setattr(image_text, "kinds", lambda: {"siglip": siglip, "conse": conse})
    assert image_text.addresses() == "'siglip:' and a checkpoint, or 'conse'"
    expected = {
        "siglip:x": True,
        "siglip": False,
        "siglip:": False,
        "conse": True,
        "conse:x": False,
    }
    assert {address: image_text.is_address(address) for address in expected} == expected
    given = ("options", pathlib.Path, "float32")
    assert image_text.open_tower("siglip:hf://a/b", *given).params == ("hf://a/b", *given)
