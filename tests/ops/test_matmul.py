"""Products of the language model: their derivatives against JAX's own, in float32 and bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.ops.matmul import einsum_in

SPECS = {  # shapes of the operands
    "abk,kwx->abwx": ((3, 5, 16), (16, 2, 24)),
    "ak,kw->aw": ((7, 16), (16, 24)),
    "nrskgd,ntkd->nkrsgt": ((2, 3, 5, 4, 2, 8), (2, 6, 4, 8)),
    "nkrsgt,ntkd->nkrsgd": ((2, 4, 3, 5, 2, 6), (2, 6, 4, 8)),
}


def _value_and_gradients(product, spec, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.normal(size=shape), dtype) for shape in SPECS[spec]]
    out = product(*operands)
    cotangent = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    return out, *jax.grad(lambda *operands: jnp.sum(product(*operands) * cotangent), (0, 1))(
        *operands
    )


@pytest.mark.parametrize("spec", SPECS)
def test_derivatives_equal_those_of_jax(spec):
    ours = _value_and_gradients(lambda x, y: einsum_in(spec, x, y, jnp.float32), spec)
    expected = _value_and_gradients(lambda x, y: jnp.einsum(spec, x, y, precision="highest"), spec)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_derivatives_of_rounded_products_stay_near_exact_ones(spec):
    ours = _value_and_gradients(lambda x, y: einsum_in(spec, x, y, jnp.bfloat16), spec)
    exact = _value_and_gradients(lambda x, y: jnp.einsum(spec, x, y, precision="highest"), spec)
    for a, b in zip(ours, exact):
        assert a.dtype == jnp.float32
        assert (
            1e-4 < np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-2
        )  # rounded, and by no more than 2**-8


def test_cotangents_come_back_in_the_types_of_the_operands():
    _, dx, dy = _value_and_gradients(
        lambda x, y: einsum_in("ak,kw->aw", x, y, jnp.float32), "ak,kw->aw", jnp.bfloat16
    )
    assert (dx.dtype, dy.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_the_backward_pass_multiplies_in_the_type_of_the_forward_pass():
    x, y = jnp.ones((4, 8)), jnp.ones((8, 4))
    gradients = jax.make_jaxpr(
        jax.grad(lambda x, y: einsum_in("ak,kw->aw", x, y, jnp.bfloat16).sum(), (0, 1))
    )(x, y)
    types = [{v.aval.dtype.name for v in product.invars} for product in _products(gradients.jaxpr)]
    assert len(types) >= 2 and all(operands == {"bfloat16"} for operands in types)


def _products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from _products(inner.jaxpr)
