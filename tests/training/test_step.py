"""The train step on a tiny tokenizer: devices, donation, what is frozen, when the GAN starts.

Its numbers are checked against the published code in tests/tokenizer.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from v2l_jax.parallel.mesh import replicate, shard_batch
from v2l_jax.tokenizers.projector_upkeep import ProjectorUpkeep
from v2l_jax.tokenizers.v2l import V2L
from v2l_jax.tokenizers.v2l_network import V2LTokenizer
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.remat import rematerialize
from v2l_jax.training.spikes import SpikeGuard, SpikeState
from v2l_jax.training.state import TrainState
from v2l_jax.training.step import make_train_step

_DISC_START = 1


def _perceptual(params, image, other):
    """Stands in for LPIPS: a weighted squared error."""
    return jnp.mean(params["weight"] * (image - other) ** 2, axis=(1, 2, 3))


@pytest.fixture(scope="module")
def tiny():
    """Networks, a step trained by plain gradient descent (Adam would amplify rounding), data, and a
    fresh state.
    """
    random = np.random.RandomState(0)
    model = V2LTokenizer(
        channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        z_channels=8,
        attn_resolutions=(),
        word_dim=16,
        num_local_words=30,
        num_global_words=12,
        block_size=16,
    )
    tokenizer = V2L(model, global_tokens=3)
    discriminator = PatchDiscriminator(channels=8, num_layers=1)
    batch = {
        "image": random.rand(8, 16, 16, 3).astype("f4") * 2 - 1,
        "image_embedding": random.randn(8, 16).astype("f4"),
    }
    params = _random_variables(
        random, lambda key, b: model.init(key, b["image"], b["image_embedding"], 3), batch
    )["params"]
    disc_variables = _random_variables(
        random, lambda key, b: discriminator.init(key, b["image"], False), batch
    )
    disc_variables["batch_stats"] = jax.tree.map(jnp.abs, disc_variables["batch_stats"])
    words = {
        "local_words": random.randn(30, 16).astype("f4"),
        "global_words": random.randn(12, 16).astype("f4"),
    }
    frozen = {"model": words, "lpips": {"weight": np.ones(3, "f4")}}
    tx = optax.sgd(0.05)
    weights = LossWeights(disc_start=_DISC_START)

    def make_step(**changes):
        settings = {
            "tokenizer": tokenizer,
            "discriminator": discriminator,
            "weights": weights,
        } | changes
        return make_train_step(lpips=_perceptual, tx=tx, disc_tx=tx, **settings)

    def start(counter=0, memory=None):
        variables = {"params": params, "memory": memory}
        state = TrainState.create(variables, disc_variables, tx, tx, jax.random.PRNGKey(0))
        return jax.tree.map(jnp.array, state.replace(step=jnp.int32(counter)))

    return types.SimpleNamespace(
        model=model,
        tokenizer=tokenizer,
        discriminator=discriminator,
        make_step=make_step,
        step=make_step(),
        start=start,
        batch=batch,
        frozen=frozen,
        params=params,
        weights=weights,
    )


def _random_variables(random, init, batch):
    """Variables of the right shapes drawn by numpy, which compiles nothing."""
    shapes = jax.eval_shape(init, jax.random.PRNGKey(0), jax.tree.map(jnp.asarray, batch))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * random.randn(*leaf.shape), jnp.float32), shapes
    )


def _run(tiny, counter, steps):
    """State and metrics of every step on one device, from a fresh state with the step counter at
    `counter`.
    """
    state, metrics = tiny.start(counter), []
    for _ in range(steps):
        state, values = tiny.step(state, tiny.batch, tiny.frozen)
        metrics.append(jax.device_get(values))
    return jax.device_get(state), metrics


@pytest.mark.mesh
def test_eight_devices_take_the_same_step_as_one(tiny):
    """With the GAN on: BatchNorm statistics, the adaptive weight and the losses are those of the
    global batch.
    """
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    state, frozen = replicate(tiny.start(_DISC_START + 1), mesh), replicate(tiny.frozen, mesh)
    state, metrics = jax.device_get(tiny.step(state, shard_batch(tiny.batch, mesh), frozen))
    expected_state, (expected_metrics,) = _run(tiny, _DISC_START + 1, steps=1)
    assert metrics.keys() == expected_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(
            metrics[name], expected_metrics[name], rtol=2e-5, atol=1e-7, err_msg=name
        )
    assert metrics["adaptive_weight"] > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), state, expected_state
    )


def test_gan_starts_after_disc_start(tiny):
    """disc_start = 1: steps 0 and 1 are without, step 2 is the first with."""
    _, metrics = _run(tiny, 0, steps=4)
    for name in ("generator_loss", "discriminator_loss", "adaptive_weight"):
        playing = [float(values[name]) != 0 for values in metrics]
        assert playing == [False, False, True, True], name
    for values in metrics:
        total = (
            values["reconstruction_loss"]
            + values["quantizer_loss"]
            + 0.1 * values["perceptual_loss"]
        )
        total += values["adaptive_weight"] * values["generator_loss"]
        np.testing.assert_allclose(values["loss"], total, rtol=1e-5)


def test_discriminator_rests_before_the_gan_starts(tiny):
    before = jax.device_get(tiny.start())
    after, _ = tiny.step(tiny.start(), tiny.batch, tiny.frozen)
    jax.tree.map(np.testing.assert_array_equal, after.disc_params, before.disc_params)
    jax.tree.map(np.testing.assert_array_equal, after.disc_batch_stats, before.disc_batch_stats)
    after, _ = tiny.step(tiny.start(_DISC_START + 1), tiny.batch, tiny.frozen)
    for name in ("disc_params", "disc_batch_stats"):
        changed = jax.tree.map(
            lambda a, b: bool(np.any(a != b)), getattr(after, name), getattr(before, name)
        )
        changed.get("conv_2", {}).pop(
            "bias", None
        )  # pulled both ways alike while no hinge is satisfied
        assert all(jax.tree.leaves(changed)), changed


def test_loss_falls(tiny):
    state, losses = tiny.start(), []
    for _ in range(20):
        state, metrics = tiny.step(state.replace(step=jnp.int32(0)), tiny.batch, tiny.frozen)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_state_is_donated_and_frozen_inputs_are_not(tiny):
    state = tiny.start()
    frozen = jax.tree.map(jnp.array, tiny.frozen)
    copies = jax.device_get(frozen)
    tiny.step(state, tiny.batch, frozen)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    jax.tree.map(np.testing.assert_array_equal, frozen, copies)


def test_word_vectors_have_no_gradient_and_no_place_in_the_state(tiny):
    def loss(words):
        variables = {"params": tiny.params, "frozen": words}
        result = tiny.model.apply(
            variables,
            jnp.asarray(tiny.batch["image"]),
            jnp.asarray(tiny.batch["image_embedding"]),
            3,
        )
        return jnp.sum(result.image**2) + result.quantizer_loss

    gradients = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, tiny.frozen["model"]))
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradients))
    shapes = {leaf.shape for leaf in jax.tree.leaves(tiny.start())}
    assert (30, 16) not in shapes and (12, 16) not in shapes


def test_every_parameter_gets_a_gradient(tiny):
    """Nothing that should train is cut off, the projector included. (A bias before a GroupNorm may
    stay still.)
    """
    before = jax.device_get(tiny.start().params)
    after, _ = tiny.step(tiny.start(_DISC_START + 1), tiny.batch, tiny.frozen)
    still = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(after.params), jax.tree.leaves(before)
        )
        if np.array_equal(a, b)
    ]
    assert all(name.endswith("bias") for name in still), still


def test_bfloat16_step_stays_near_the_float32_one(tiny):
    """Parameters, losses and gradients remain float32; only products and convolutions are
    rounded.
    """
    rough = tiny.make_step(
        tokenizer=tiny.tokenizer.with_dtype(jnp.bfloat16),
        discriminator=tiny.discriminator.clone(dtype=jnp.bfloat16),
    )
    state, metrics = rough(tiny.start(_DISC_START + 1), tiny.batch, tiny.frozen)
    _, expected = tiny.step(tiny.start(_DISC_START + 1), tiny.batch, tiny.frozen)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    for name in ("reconstruction_loss", "perceptual_loss", "quantizer_loss", "discriminator_loss"):
        assert metrics[name].dtype == jnp.float32
        np.testing.assert_allclose(metrics[name], expected[name], rtol=0.05, err_msg=name)


def test_micro_batches_add_up_to_the_batch(tiny):
    """Before the GAN plays, whose BatchNorm sees a part at a time. The words in use are those of
    the whole batch.
    """
    state, metrics = tiny.make_step(micro_batches=4, remat="blocks")(
        tiny.start(), tiny.batch, tiny.frozen
    )
    expected_state, (expected,) = _run(tiny, 0, steps=1)
    assert metrics.keys() == expected.keys()
    for name in metrics:
        np.testing.assert_allclose(
            metrics[name], expected[name], rtol=2e-5, atol=1e-7, err_msg=name
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        jax.device_get(state),
        expected_state,
    )


def test_spike_leaves_everything_but_the_counters_as_it_was(tiny):
    step = tiny.make_step(spike_guard=SpikeGuard(2.0, start=1), ema_decay=0.9)

    def start(usual):
        state = tiny.start(_DISC_START + 1)
        spikes = SpikeState(usual_norm=jnp.float32(usual), skipped=jnp.int32(3))
        return state.replace(
            spikes=spikes, ema_params=jax.tree.map(lambda p: jnp.zeros_like(p), state.params)
        )

    before = jax.device_get(start(1e-6))
    after, metrics = jax.device_get(step(start(1e-6), tiny.batch, tiny.frozen))
    assert metrics["skipped"] == 1 and after.spikes.skipped == 4 and after.step == before.step + 1
    same = {"step": before.step, "spikes": before.spikes}
    jax.tree.map(np.testing.assert_array_equal, after.replace(**same), before)
    after, metrics = jax.device_get(step(start(1e6), tiny.batch, tiny.frozen))
    assert metrics["skipped"] == 0 and after.spikes.skipped == 3
    decay = (1 + 2) / (10 + 2)  # less than 0.9 on the third step
    jax.tree.map(
        lambda e, p: np.testing.assert_allclose(e, (1 - decay) * p, rtol=1e-5),
        after.ema_params,
        after.params,
    )
    jax.tree.map(np.testing.assert_array_equal, after.eval_params, after.ema_params)


def test_rematerialization_keeps_less_and_changes_nothing(tiny):
    """What is kept for the backward pass, counted in the residuals of the tokenizer's pull-back."""

    def loss(params):
        result = tiny.model.apply(
            {"params": params, "frozen": tiny.frozen["model"]}, *inputs, method="reconstruct"
        )
        return jnp.sum(result.image**2)

    inputs = (jnp.asarray(tiny.batch["image"]), jnp.zeros((8, 3), jnp.int32))
    kept = lambda policy: sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(lambda p: jax.vjp(rematerialize(loss, policy), p)[1], tiny.params)
        )
    )
    assert kept("all") <= kept("blocks") < 0.5 * kept("none")
    expected = jax.jit(jax.grad(rematerialize(loss, "none")))(tiny.params)
    for remat in ("blocks", "all"):
        gradients = jax.jit(jax.grad(rematerialize(loss, remat)))(tiny.params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients, expected
        )


def test_warmed_up_discriminator_trains_before_the_generator_hears_of_it(tiny):
    """disc_start = 1, two steps of warm-up: it plays from step 0 on; the tokenizer's first two
    steps are what they were.
    """
    step = tiny.make_step(weights=dataclasses.replace(tiny.weights, disc_warmup=2))
    state, metrics = tiny.start(), []
    for number in range(3):
        state, values = step(state, tiny.batch, tiny.frozen)
        metrics.append(jax.device_get(values))
        if number == 1:
            warmed = jax.device_get(state)
    assert [float(values["discriminator_loss"]) != 0 for values in metrics] == [True, True, True]
    assert [float(values["generator_loss"]) != 0 for values in metrics] == [False, False, True]
    plain, _ = _run(tiny, 0, steps=2)
    jax.tree.map(np.testing.assert_array_equal, warmed.params, plain.params)
    fresh = jax.device_get(tiny.start())
    assert any(
        np.any(a != b)
        for a, b in zip(jax.tree.leaves(warmed.disc_params), jax.tree.leaves(fresh.disc_params))
    )
    jax.tree.map(np.testing.assert_array_equal, plain.disc_params, fresh.disc_params)


def test_entropy_regulariser_counts_in_the_loss_and_moves_the_projector(tiny):
    tokenizer = dataclasses.replace(tiny.tokenizer, entropy_weight=3.0, entropy_temperature=0.5)
    after, metrics = tiny.make_step(tokenizer=tokenizer)(tiny.start(), tiny.batch, tiny.frozen)
    plain, expected = tiny.step(tiny.start(), tiny.batch, tiny.frozen)
    assert -np.log(30) < metrics["entropy_loss"] < 0 and "entropy_loss" not in expected
    np.testing.assert_allclose(
        metrics["loss"], expected["loss"] + 3.0 * metrics["entropy_loss"], rtol=1e-4
    )

    def loss(params):
        variables = {"params": params, "frozen": jax.tree.map(jnp.asarray, tiny.frozen["model"])}
        features = tiny.model.apply(variables, jnp.asarray(tiny.batch["image"]), method="encode")
        return tiny.model.apply(variables, features, 0.5, method="entropy_loss")

    gradient = jax.jit(jax.grad(loss))(tiny.params)
    for name in ("projector", "to_words"):  # plain gradient descent: the steps differ by its share
        found = (plain.params[name]["kernel"] - after.params[name]["kernel"]) / (0.05 * 3.0)
        np.testing.assert_allclose(found, gradient[name]["kernel"], rtol=2e-2, atol=1e-4)
        assert np.abs(gradient[name]["kernel"]).max() > 1e-3


def test_revival_remembers_the_words_used_since_the_last(tiny):
    """Due at every second step but not at step 0, after which what was used is forgotten."""
    tokenizer = dataclasses.replace(tiny.tokenizer, upkeep=ProjectorUpkeep(revive_every=2))
    step, plain = tiny.make_step(tokenizer=tokenizer), tiny.step
    state = tiny.start(memory=jnp.zeros(30, bool))
    for number in range(3):
        before = jax.device_get(state.memory)
        expected = jax.device_get(
            plain(jax.tree.map(jnp.copy, state), tiny.batch, tiny.frozen)[0].params["projector"]
        )
        state, metrics = step(state, tiny.batch, tiny.frozen)
        if number < 2:
            assert state.memory.sum() >= max(metrics["words_used"], before.sum())
            jax.tree.map(np.testing.assert_array_equal, state.params["projector"], expected)
    assert not state.memory.any()
    assert np.abs(state.params["projector"]["kernel"] - expected["kernel"]).max() > 1e-4


def test_recentring_is_due_every_so_many_steps(tiny):
    tokenizer = dataclasses.replace(tiny.tokenizer, upkeep=ProjectorUpkeep(recenter_every=2))
    step = tiny.make_step(tokenizer=tokenizer)
    words, deviations = tiny.frozen["model"]["local_words"], []
    state = tiny.start()
    for _ in range(3):
        state, _ = step(state, tiny.batch, tiny.frozen)
        variables = {"params": state.params, "frozen": tiny.frozen["model"]}
        features = np.asarray(
            tiny.model.apply(variables, jnp.asarray(tiny.batch["image"]), method="encode")
        ).reshape(-1, 16)
        projected = words @ np.asarray(state.params["projector"]["kernel"])
        deviations.append(np.abs(np.log(projected.std(0) / features.std(0))).max())
    assert deviations[0] < 1e-3 and deviations[2] < 1e-3 and deviations[1] > 1e-3
