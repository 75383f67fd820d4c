"""Schedule in closed form; Adam against optax's; which parameters move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from v2l_jax.training.optimizer import label_parameters, make_optimizer, warmup_cosine


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
    tx, reference = make_optimizer(schedule), optax.adam(float(schedule(60)), b1=0.5, b2=0.9, eps=1e-7)
    params = {"w": jnp.asarray([1.0, -2.0, 3.0])}
    gradients = {"w": jnp.asarray([0.1, 1e-6, -5.0])}
    ours, _ = tx.update(gradients, tx.init(params), params, step=jnp.int32(60))
    expected, _ = reference.update(gradients, reference.init(params), params)
    np.testing.assert_allclose(ours["w"], expected["w"], rtol=1e-6)


def test_only_matching_parameters_train():
    params = {"encoder": {"kernel": jnp.ones(3)}, "decoder": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
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
    tx = make_optimizer(lambda step: jnp.float32(0.1), late="^encoder", late_start=5, late_scale=0.25)
    state = tx.init(params)
    for step, expected in ((4, 0.0), (5, 0.25)):
        updates, state = tx.update(grads, state, params, step=jnp.asarray(step))
        ratio = updates["encoder"]["kernel"] / updates["decoder"]["kernel"]
        np.testing.assert_allclose(ratio, expected, rtol=1e-6)
        assert (updates["decoder"]["kernel"] < 0).all()
