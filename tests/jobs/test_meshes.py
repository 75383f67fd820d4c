"""The same seed gives the same losses on any mesh: one device, or eight that share batch, state and
vocabulary in different ways.
"""

import pathlib
import runpy

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from v2l_jax.parallel.mesh import AXES, make_mesh, shard_batch
from v2l_jax.parallel.sharding import leaf_name
from v2l_jax.run import building

pytestmark = pytest.mark.mesh

STEPS, BATCH, SIDE, DIM, WORDS = 10, 16, 16, 32, 64
CONFIG = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "tiny_config.py"))["get_config"]


def tiny(**train):
    """A tokenizer with Adam, the paper's schedule, and the GAN from the fifth step on.

    Rounding decides which word a feature between two of them gets, which way the absolute error
    pulls where it is 0, and which slope of the discriminator's LeakyReLU an activation of 0 takes.
    At a rate a hundred times as large such accidents multiply: two orders of summation part within
    the steps. The last of them moves the adaptive weight by 1e-3, hence a GAN of a tenth of its
    weight, which leaves the sum of the losses within 1e-5.
    """
    config = CONFIG()
    config.model.image_size, config.model.channel_multipliers, config.model.global_tokens = (
        SIDE,
        (1,),
        4,
    )
    config.train.update(
        steps=500_000, batch_size=BATCH, learning_rate=4.5e-4, warmup_steps=25_000, disc_start=3
    )
    config.train.weight_adversarial /= 10
    config.train.update(encoder_start=0, encoder_scale=1.0, projector_fit_every=0)
    config.train.update(train)
    return config


def batch(step):
    random = np.random.RandomState(step)
    coarse = random.rand(BATCH, SIDE // 4, SIDE // 4, 3).repeat(4, 1).repeat(4, 2)
    image = (2 * coarse - 1 + 0.1 * random.randn(BATCH, SIDE, SIDE, 3)).clip(-1, 1)
    return {
        "image": image.astype("float32"),
        "image_embedding": random.randn(BATCH, DIM).astype("float32"),
    }


def words():
    random = np.random.RandomState(0)
    return {
        "local": random.randn(WORDS, DIM).astype("f4"),
        "global": random.randn(21, DIM).astype("f4"),
    }


def placed(config, mesh):
    """The trainer of a config, and its frozen inputs."""
    tokenizer = building.tokenizer(config, words())
    trainer = building.trainer(config, tokenizer, 1000, mesh)
    return trainer, trainer.placed_frozen(building.frozen_inputs(tokenizer, words(), None))


def train(config, mesh, steps=STEPS):
    """The state after `steps` steps, the frozen inputs, and each step's metrics."""
    trainer, frozen = placed(config, mesh)
    state, step = trainer.placed_state(), trainer.step_function()
    metrics = []
    for number in range(steps):
        state, values = step(state, shard_batch(batch(number), mesh), frozen)
        metrics.append(jax.device_get(values))
    return (
        state,
        frozen,
        {name: np.array([values[name] for values in metrics]) for name in metrics[0]},
    )


@pytest.fixture(scope="module")
def one_device():
    mesh = Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4
    )
    return train(tiny(), mesh)


def test_losses_are_those_of_one_device(one_device):
    """Batch, state and vocabulary are split at once. Statistics of BatchNorm and the adaptive
    weight of the GAN included, which would differ at once if they were each device's own.
    """
    _, _, expected = one_device
    state, _, metrics = train(tiny(), make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    assert all(np.isfinite(values).all() for values in expected.values())
    assert state.params["to_words"]["kernel"].sharding.spec == P(None, "fsdp")
    assert (expected["generator_loss"] != 0).sum() == STEPS - 4 and expected["adaptive_weight"][
        -1
    ] > 0
    for name in (
        "loss",
        "reconstruction_loss",
        "quantizer_loss",
        "generator_loss",
        "discriminator_loss",
    ):
        np.testing.assert_allclose(
            metrics[name], expected[name], rtol=1e-5, atol=2e-7, err_msg=name
        )
    for name in ("adaptive_weight", "gradient_norm"):  # see `tiny`
        np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-3, err_msg=name)
    np.testing.assert_array_equal(metrics["words_used"], expected["words_used"])


def test_codebook_remedies_are_those_of_one_device():
    """Word counts, moments, regression and entropy go over all devices' tokens and words."""
    remedies = {
        "projector_recenter_every": 2,
        "projector_revive_every": 3,
        "weight_entropy": 0.1,
        "entropy_temperature": 0.1,
        "disc_warmup": 2,
    }
    alone = Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4
    )
    state, _, metrics = train(tiny(**remedies), make_mesh({"data": 2, "tensor": 4}), steps=6)
    expected_state, _, expected = train(tiny(**remedies), alone, steps=6)
    assert metrics.keys() == expected.keys() and (expected["discriminator_loss"] != 0).sum() == 4
    for name in ("quantizer_loss", "entropy_loss", "discriminator_loss"):
        np.testing.assert_allclose(
            metrics[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    for name in ("loss", "reconstruction_loss"):  # one feature between two words: 3e-4, see `tiny`
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-3, err_msg=name)
    np.testing.assert_array_equal(state.memory, expected_state.memory)
    kernels = [np.asarray(s.params["projector"]["kernel"]) for s in (state, expected_state)]
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-4)


def test_each_leaf_lies_where_the_rules_say():
    config, mesh = tiny(ema_decay=0.9), make_mesh({"fsdp": 2, "tensor": 4})
    trainer, frozen = placed(config, mesh)
    tree = {"state": trainer.placed_state(), "frozen": frozen}
    found = {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    split = {name for name, leaf in found.items() if not leaf.sharding.is_fully_replicated}
    for part in ("params", "ema_params", "opt_state/0/mu", "opt_state/0/nu"):
        assert f"state/{part}/encoder/conv_in/kernel" in split
    for part in ("disc_params", "disc_opt_state/0/mu", "disc_opt_state/0/nu"):
        assert f"state/{part}/conv_1/kernel" in split
    assert all(name.endswith(("kernel", "local_words")) for name in split)
    kernel = found["state/params/encoder/middle/block_1/conv1/kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 3, 32, 16)
    assert found["frozen/model/local_words"].addressable_shards[0].data.shape == (WORDS // 4, DIM)
    assert "state/params/conv_out/kernel" not in split  # three channels do not divide
    fewer = trainer.placed_frozen({"model": {"local_words": words()["local"][:50]}})
    assert fewer["model"]["local_words"].sharding.is_fully_replicated  # nor do 50 words
    config.sharding = ((".*", ()),)
    whole = placed(config, mesh)[0].placed_state()
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))
    jax.tree.map(np.testing.assert_array_equal, whole, tree["state"])
