"""Features are made in one pass over the images, which also tells their labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_config
from tests.tiny_tfds import write_pets
from v2l_jax.jobs import evaluate
from v2l_jax.run import features, loading
from v2l_jax.run.run import Run
from v2l_jax.towers.image_text import ImageTextTower


class Counting:
    """Records, and how often each was read."""

    def __init__(self, records):
        self._records, self.reads = records, np.zeros(len(records), int)

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self._records[index]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run over a TFDS set, whose tower is the mean colour."""
    photos = {
        split: [np.full((8, 8, 3), 9 * i, np.uint8) for i in range(12)]
        for split in ("train", "validation")
    }
    write_pets(tmp_path, photos, monkeypatch)
    config = tiny_config.get_config()
    config.data.update(kind="tfds", name="tiny_pets", tfds_dir=str(tmp_path), labelled=())
    config.evaluate.tasks = ("few_shot", "zero_shot", "token_choice", "classification")
    config.evaluate.tasks += ("open_ended",)
    for task in ("token_choice", "open_ended"):
        config.evaluate[task].ways = (2,)
    config.evaluate.token_choice.shots = 1
    config.evaluate.open_ended.shots = (1,)
    tower = ImageTextTower(
        name="mean colour",
        kind="mean",
        image_size=8,
        dim=3,
        params={},
        preprocess=lambda image: image.astype(np.float32),
        encode_image=lambda params, images: jnp.mean(images, (1, 2)),
        encode_texts=lambda texts, batch_size: np.zeros((len(texts), 3), np.float32),
    )
    monkeypatch.setattr(loading, "image_text_tower", lambda config: tower)
    return config


def _counted(config):
    """The images as a new process opens them; counts of reads by split."""
    loading._photos.cache_clear()
    found, counts = loading.photos(config), {}
    for split in ("train", "held_out"):
        source = getattr(found, split)
        source._records = counts[split] = Counting(source._records)
    return found, counts


def test_labels_cost_no_pass_over_the_images(config, asset, tmp_path):
    photos, counts = _counted(config)
    evaluate.check(config)
    assert not photos.labels_at_hand and not counts["train"].reads.any()

    vectors = features.cached(config, tmp_path, "train", photos.train)
    np.testing.assert_allclose(vectors, 9.0 * np.arange(12)[:, None] * np.ones(3), rtol=1e-6)
    assert photos.train.labels.tolist() == [0, 1] * 6 and (counts["train"].reads == 1).all()

    _, counts = _counted(config)
    run = Run(config, tmp_path)
    assert run.photos.train.labels.tolist() == [0, 1] * 6 and not counts["train"].reads.any()
    evaluate.check(config)
    assert not counts["held_out"].reads.any()
    assert run.photos.held_out.labels.tolist() == [0, 1] * 6  # nobody has looked at these yet
    assert (counts["held_out"].reads == 1).all() and run.photos.labels_at_hand
    evaluate.check(config)
    assert not counts["train"].reads.any()
