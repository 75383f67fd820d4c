"""TF32 is emulated where a product asks for it, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import agreement
from v2l_jax.ops.precision import TF32, precision_of


@pytest.fixture(scope="module")
def factors():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 7)).astype("f4"), random.normal(size=(7, 3)).astype("f4")


def tf32(x):
    """10 bits of mantissa by arithmetic in float64: steps of 2^-10 of the power of two below."""
    exact = np.asarray(x, np.float64)
    step = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 10)
    return np.rint(exact / step) * step


def test_rounding_is_to_the_nearest_of_ten_bits():
    x = np.random.default_rng(1).normal(size=1000).astype("f4")
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-11], "f4")  # to the even one
    x = np.concatenate([x, ties])
    np.testing.assert_array_equal(np.asarray(agreement.rounded_to_tf32(jnp.asarray(x))), tf32(x))


def test_only_products_that_ask_for_it_are_rounded(factors):
    """One product in TF32 inside functions that are compiled and differentiated by hand, one that
    is exact.
    """
    a, b = factors

    @jax.custom_vjp
    def fast(a, b):
        return jnp.dot(a, b, precision=precision_of(TF32))

    fast.defvjp(lambda a, b: (fast(a, b), None), lambda kept, gradient: (gradient, gradient))

    def both(pair):
        return {"fast": jax.jit(fast)(*pair), "exact": jnp.dot(*pair, precision="highest")}

    found = jax.jit(agreement.with_tf32(both))((a, b))
    np.testing.assert_allclose(found["exact"], np.float64(a) @ np.float64(b), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["fast"], tf32(a) @ tf32(b), rtol=1e-5, atol=1e-6)
    assert np.abs(found["fast"] - found["exact"]).max() > 1e-4


def test_a_product_in_a_loop_is_refused(factors):
    def looped(a, b):
        step = lambda total, row: (total + jnp.dot(row, b, precision=lax.Precision.HIGH), None)
        return lax.scan(step, jnp.zeros(3), a)[0]

    with pytest.raises(ValueError, match="a product in TF32 stands in a scan"):
        agreement.with_tf32(looped)(*factors)


def test_shares_are_means_over_images():
    expected = np.zeros((2, 4), int)
    found = np.array([[0, 0, 0, 0], [0, 0, 1, 1]])
    result = agreement.share("local", "tf32", found, expected)
    assert result.value == 0.75 and result.count == 2 and result.measured_on["words"] == 8
