"""The training benchmark at a tiny size: both sides start from the same weights and lose the same;
the table is filled.
"""

import jax
import numpy as np
import pytest

from tests.tiny_config import get_config


@pytest.fixture(scope="module")
def train(torch):
    """The benchmark, whose import needs the peer."""
    from benchmarks import train

    return train


@pytest.fixture(scope="module")
def sizes(train, asset):
    asset("lpips-vgg16")
    config = get_config()
    config.model.attn_resolutions, config.model.resolution = (16,), 32
    config.train.update(
        {
            "perceptual": "lpips-vgg16",
            "perceptual_images": 1,
            "batch_size": 2,
            "learning_rate": 1e-5,
        }
    )
    config.evaluate.batch_size = 3
    return train.Sizes.of(config, word_dim=32, local_words=50, global_words=20)


@pytest.mark.parametrize("gan", [False, True], ids=["alone", "against the discriminator"])
def test_both_sides_lose_the_same(train, sizes, gan):
    """Three steps; rounding grows with each, and faster in the game (see
    tests/tokenizer/test_golden_training.py).
    """
    theirs = train.peer(sizes, "float32", gan)
    ours, batch = train.Ours(sizes, "float32", gan, theirs.arrays()), sizes.batch(2)
    placed = theirs.put(batch)
    for step in range(3):
        expected, found = theirs.train(placed), ours.train(batch)
        assert ("generator_loss" in expected) == gan
        for name, value in expected.items():
            rounding = (
                1e-4 if name != "adaptive_weight" else 5e-3
            )  # whose gradients are sums that nearly cancel
            tolerance = rounding if step == 0 else 2e-2 if gan else 2e-3
            np.testing.assert_allclose(
                float(found[name]), float(value), rtol=tolerance, err_msg=f"{name} at step {step}"
            )


def test_both_sides_choose_the_same_words(train, sizes):
    theirs = train.peer(sizes, "float32", False)
    ours, batch = train.Ours(sizes, "float32", False, theirs.arrays()), sizes.batch(3)
    global_ids, local_ids = theirs.tokenize(theirs.put(batch))
    found = ours.tokenize(batch)
    np.testing.assert_array_equal(found["global"], global_ids)
    np.testing.assert_array_equal(found["local"], local_ids)
    assert len(np.unique(local_ids)) > 1


def test_every_row_is_filled(train, sizes):
    for task in ("train", "tokenize"):
        eager, ours = train.measure(sizes, task, "float32", compiled=False, steps=1, turns=1)
        assert (eager.engine, ours.engine) == ("torch eager, float32", "ours, float32")
        assert ours.rate > 0 and ours.eager == eager.rate and ours.bound == eager.bound > 0
        assert (eager.loss is None) == (task == "tokenize")
        assert len(eager.cells()) == len(train.HEAD)


def test_operations_of_a_step_grow_with_the_game_and_with_the_batch(train, sizes):
    arrays = train.peer(sizes, "float32", False).arrays()
    ours = train.Ours(sizes, "float32", False, arrays)
    one, two = (jax.device_put(sizes.batch(size)) for size in (1, 2))
    assert ours.train_flops(two, gan=False) < ours.train_flops(two, gan=True)
    assert (
        ours.train_flops(one, gan=False)
        < ours.train_flops(two, gan=False)
        < 2 * ours.train_flops(one, gan=False)
    )
    assert 0 < ours.tokenize_flops(one) < ours.train_flops(one, gan=False) / 3
