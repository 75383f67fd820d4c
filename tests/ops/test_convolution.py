"""The convolution's own backward pass against XLA's, for every kind of convolution that the
networks use.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.ops.convolution import conv_general_dilated

_CASES = {
    "3x3": ((3, 3), 1, ((1, 1), (1, 1))),
    "downsampling": ((3, 3), 2, ((0, 1), (0, 1))),
    "4x4 of stride 2": ((4, 4), 2, ((1, 1), (1, 1))),
    "4x4 of stride 1": ((4, 4), 1, ((1, 1), (1, 1))),
    "not square": ((2, 3), 1, ((0, 1), (2, 0))),
    "pixels left over": ((3, 3), 3, ((1, 0), (0, 0))),
    "strides wider than the kernel": ((1, 2), 3, ((0, 0), (0, 0))),
    "odd sides, stride 2": ((5, 3), 2, ((2, 0), (0, 2))),
}


@pytest.mark.parametrize("case", _CASES)
def test_values_and_gradients_equal_xlas(case):
    size, stride, padding = _CASES[case]
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(3, 10, 8, 5), jnp.float32)
    kernel = jnp.asarray(random.randn(*size, 5, 7), jnp.float32)

    def plain(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=layout
        )

    def ours(x, kernel):
        return conv_general_dilated(x, kernel, (stride, stride), padding)

    def both(convolve):
        return jax.jit(
            lambda x, kernel, gradient: (
                convolve(x, kernel),
                *jax.vjp(convolve, x, kernel)[1](gradient),
            )
        )

    gradient = jnp.asarray(random.randn(*jax.eval_shape(plain, x, kernel).shape), jnp.float32)
    for result, expected in zip(both(ours)(x, kernel, gradient), both(plain)(x, kernel, gradient)):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_gradients_keep_the_type_of_what_they_belong_to():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    padding = ((1, 1), (1, 1))
    gradients = jax.grad(
        lambda *args: conv_general_dilated(*args, (1, 1), padding).sum(), argnums=(0, 1)
    )(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]


def test_unsupported_convolutions_are_refused():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(ValueError):
        conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), rhs_dilation=(2, 2))
