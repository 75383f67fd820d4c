"""Which gradients are left out."""

import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.training.spikes import SpikeGuard, SpikeState


def judge_all(guard, norms):
    state, skipped = SpikeState.create(), []
    for step, norm in enumerate(norms):
        spike, state = guard.judge(state, jnp.int32(step), jnp.float32(norm))
        skipped.append(bool(spike))
    return skipped, state


def test_a_sudden_norm_is_skipped_and_counted():
    skipped, state = judge_all(SpikeGuard(4.0, start=3), [1.0, 1.1, 0.9, 1.0, 50.0, 1.0, 3.0])
    assert skipped == [False] * 4 + [True] + [False] * 2 and int(state.skipped) == 1


def test_nothing_is_skipped_before_the_start():
    assert not any(judge_all(SpikeGuard(4.0, start=10), [1.0, 100.0, 1.0, 900.0])[0])


def test_a_lasting_rise_is_followed():
    skipped, _ = judge_all(SpikeGuard(3.0, start=1), [1.0] + [20.0] * 60)
    assert skipped[1] and not skipped[-1]


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_what_is_not_finite_is_left_to_the_guard_against_nan(norm):
    assert judge_all(SpikeGuard(3.0, start=1), [1.0, norm])[0] == [False, False]
