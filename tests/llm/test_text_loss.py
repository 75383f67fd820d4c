"""The loss on chosen tokens, against transformers' labels of -100 and against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.llm.text_loss import target_loss

RNG = np.random.default_rng(0)
HIDDEN, MATRIX = (
    RNG.standard_normal((2, 9, 6)).astype("float32"),
    RNG.standard_normal((6, 11)).astype("float32"),
)
TOKENS = RNG.integers(0, 11, (2, 9)).astype("int32")
TARGETS = np.array([[3, 4, 8, -1], [1, 7, -1, -1]], "int32")


def _loss(matrix, chunk, hidden=HIDDEN, targets=TARGETS):
    return target_loss(
        lambda x: x @ matrix, jnp.asarray(hidden), jnp.asarray(TOKENS), jnp.asarray(targets), chunk
    )


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_equals_the_loss_of_transformers(torch, chunk):
    from transformers.loss.loss_utils import ForCausalLMLoss

    labels = np.full((2, 9), -100)
    for row, positions in enumerate(TARGETS):
        for p in positions[positions > 0]:
            labels[row, p] = TOKENS[row, p]
    matrix = torch.tensor(MATRIX, requires_grad=True)
    expected = ForCausalLMLoss(
        torch.from_numpy(HIDDEN) @ matrix, torch.from_numpy(labels), vocab_size=11
    )
    expected.backward()
    value, gradient = jax.value_and_grad(_loss)(jnp.asarray(MATRIX), chunk)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, matrix.grad.numpy(), atol=1e-6)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    np.testing.assert_allclose(_loss(jnp.zeros((6, 11)), 2), np.log(11), rtol=1e-6)


def test_tokens_that_are_no_targets_do_not_matter():
    before = HIDDEN.copy()
    before[:, [0, 1, 4, 5, 8]] = 1e3  # of row 0 the states 2, 3, 7 predict targets
    row = np.array([[3, 4, 8, -1], [-1, -1, -1, -1]], "int32")
    np.testing.assert_allclose(
        _loss(MATRIX, 4, before, row), _loss(MATRIX, 4, HIDDEN, row), rtol=1e-6
    )


def test_no_targets_at_all_cost_nothing():
    assert _loss(MATRIX, 4, targets=np.full((2, 4), -1, "int32")) == 0
