"""A program compiled to run once gives what the optimised one gives."""

import jax
import numpy as np

from v2l_jax.ops.run_once import run_once


def test_the_same_numbers_as_the_optimised_program():
    def start():
        key = jax.random.PRNGKey(3)
        return {
            "normal": 0.02 * jax.random.normal(key, (33, 7)),
            "bits": jax.random.bits(key, (5,)),
        }

    found, expected = run_once(start), jax.jit(start)()
    np.testing.assert_array_equal(found["bits"], expected["bits"])
    np.testing.assert_allclose(found["normal"], expected["normal"], rtol=1e-5, atol=1e-9)
