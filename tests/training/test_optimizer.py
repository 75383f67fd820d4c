"""Schedule in closed form; Adam against optax's; which parameters move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2l_jax.training.optimizer import label_parameters, make_optimizer, scaled_rate, warmup_cosine


def test_schedule():
    schedule = warmup_cosine(4.5e-4, warmup_steps=10, total_steps=110)
    steps = np.array([0, 5, 10, 60, 85, 110, 500])
    expected = 4.5e-4 * np.array([0, 0.5, 1, 0.5, 0.5 * (1 + np.cos(0.75 * np.pi)), 0, 0])
    np.testing.assert_allclose([float(schedule(step)) for step in steps], expected, atol=1e-10)


def test_schedule_without_warmup_starts_at_the_peak():
    np.testing.assert_allclose(float(warmup_cosine(1e-3, 0, 100)(0)), 1e-3)


def test_the_rate_follows_the_training_step_not_the_update_count():
    """A discriminator that starts at step 60 is updated with the rate of step 60."""
    schedule = warmup_cosine(1e-2, 10, 110)
    tx, reference = (
        make_optimizer(schedule),
        optax.adam(float(schedule(60)), b1=0.5, b2=0.9, eps=1e-7),
    )
    params = {"w": jnp.asarray([1.0, -2.0, 3.0])}
    gradients = {"w": jnp.asarray([0.1, 1e-6, -5.0])}
    ours, _ = tx.update(gradients, tx.init(params), params, step=jnp.int32(60))
    expected, _ = reference.update(gradients, reference.init(params), params)
    np.testing.assert_allclose(ours["w"], expected["w"], rtol=1e-6)


def test_only_matching_parameters_train():
    params = {
        "encoder": {"kernel": jnp.ones(3)},
        "decoder": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
    }
    assert label_parameters(params, r"^decoder/") == {
        "encoder": {"kernel": "freeze"},
        "decoder": {"kernel": "train", "bias": "train"},
    }
    tx = make_optimizer(lambda step: jnp.float32(0.1), trainable=r"^decoder/")
    state = tx.init(params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == [(2,)] * 4
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params, step=jnp.int32(0))
    np.testing.assert_array_equal(updates["encoder"]["kernel"], np.zeros(3))
    np.testing.assert_allclose(updates["decoder"]["bias"], -0.1, rtol=1e-5)


def test_late_parameters_wait_and_then_move_slower():
    params = {"encoder": {"kernel": jnp.zeros(3)}, "decoder": {"kernel": jnp.zeros(3)}}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = make_optimizer(
        lambda step: jnp.float32(0.1), late="^encoder", late_start=5, late_scale=0.25
    )
    state = tx.init(params)
    for step, expected in ((4, 0.0), (5, 0.25)):
        updates, state = tx.update(grads, state, params, step=jnp.asarray(step))
        ratio = updates["encoder"]["kernel"] / updates["decoder"]["kernel"]
        np.testing.assert_allclose(ratio, expected, rtol=1e-6)
        assert (updates["decoder"]["kernel"] < 0).all()


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("adam", lambda rate: optax.adam(rate, b1=0.5, b2=0.9, eps=1e-7)),
        ("lamb", lambda rate: optax.lamb(rate, b1=0.5, b2=0.9, eps=1e-7)),
        ("lars", lambda rate: optax.lars(rate, weight_decay=0.0)),
    ],
)
def test_kinds_are_optax_own(kind, reference):
    random = np.random.RandomState(0)
    params = {"kernel": jnp.asarray(random.randn(4, 3), jnp.float32), "bias": jnp.zeros(3)}
    ours, theirs = make_optimizer(lambda step: jnp.float32(0.1), kind), reference(0.1)
    our_params, our_state, their_params, their_state = (
        params,
        ours.init(params),
        params,
        theirs.init(params),
    )
    for step in range(3):
        gradients = jax.tree.map(
            lambda leaf: jnp.asarray(random.randn(*leaf.shape), jnp.float32), params
        )
        updates, our_state = ours.update(gradients, our_state, our_params, step=jnp.int32(step))
        our_params = optax.apply_updates(our_params, updates)
        updates, their_state = theirs.update(gradients, their_state, their_params)
        their_params = optax.apply_updates(their_params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), our_params, their_params)
    assert float(jnp.abs(our_params["kernel"] - params["kernel"]).max()) > 0


def test_rate_scales_with_the_batch():
    assert scaled_rate(1e-3, "none", 4096, 256) == 1e-3
    assert scaled_rate(1e-3, "linear", 4096, 256) == pytest.approx(1.6e-2)
    assert scaled_rate(1e-3, "sqrt", 4096, 256) == pytest.approx(4e-3)
    assert scaled_rate(1e-3, "sqrt", 64, 256) == pytest.approx(5e-4)
