"""Sharding rules as data."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from v2l_jax.errors import ConfigError
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.parallel.sharding import leaf_name, tree_shardings

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"fsdp": 4, "tensor": 2})


@pytest.fixture
def params():
    return {
        "encoder": {"conv": {"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)}},
        "words": jnp.zeros((32, 6)),
    }


def specs(tree):
    return {
        leaf_name(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_first_match_wins_and_unmatched_is_replicated(mesh, params):
    rules = [
        ("words", ("tensor", None)),
        ("kernel$", P(None, None, None, "fsdp")),
        (r"encoder/.*", (None,)),
    ]
    assert specs(tree_shardings(params, mesh, rules)) == {
        "encoder/conv/kernel": P(None, None, None, "fsdp"),
        "encoder/conv/bias": P(None),
        "words": P("tensor", None),
    }
    assert set(specs(tree_shardings(params, mesh, [])).values()) == {P()}


def test_leading_dots_stand_for_any_number_of_dimensions(mesh, params):
    tree = params | {"dense": {"kernel": jnp.zeros((5, 8))}}
    found = specs(
        tree_shardings(tree, mesh, [("kernel$", ("...", "fsdp")), ("words", ("...", "fsdp", None))])
    )
    assert found["encoder/conv/kernel"] == P(None, None, None, "fsdp")
    assert found["dense/kernel"] == P(None, "fsdp") and found["words"] == P("fsdp", None)


def test_rules_reach_the_optimizer_state_of_a_parameter(mesh, params):
    state = jax.eval_shape(optax.adam(1e-3).init, params)
    found = specs(
        tree_shardings(state, mesh, [("conv/kernel$", (None, None, None, ("fsdp", "tensor")))])
    )
    sharded = sorted(name for name, spec in found.items() if spec != P())
    assert sharded == ["0/mu/encoder/conv/kernel", "0/nu/encoder/conv/kernel"]


def test_placed_array_has_the_shape_the_rule_promises(mesh, params):
    placed = jax.device_put(
        params, tree_shardings(params, mesh, [("words", (("fsdp", "tensor"), None))])
    )
    assert placed["words"].addressable_shards[0].data.shape == (4, 6)
    assert placed["encoder"]["conv"]["bias"].addressable_shards[0].data.shape == (16,)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (("words", (None, "fsdp")), r"words \(32, 6\): dimension 1 of size 6 does not divide by 4"),
        (("bias", ("fsdp", "tensor")), "more entries than the array has dimensions"),
        (("words", ("model",)), "the mesh has axes .*'fsdp', 'tensor'.* not 'model'"),
        (("words(", ("fsdp",)), "not a regular expression"),
    ],
)
def test_rule_that_cannot_hold_is_refused(mesh, params, rule, reason):
    with pytest.raises(ConfigError, match=reason):
        tree_shardings(params, mesh, [rule])
