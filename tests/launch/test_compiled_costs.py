"""What programs cost: against closed forms, and programs compiled for eight simulated devices."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from launch.chips import Chip, chip_of
from launch.compiled_costs import Collective, Costs, collectives_of, costs_of, flops_of
from v2l_jax.errors import ConfigError
from v2l_jax.parallel.mesh import make_mesh


def flops(function, *shapes, **options):
    return flops_of(
        jax.make_jaxpr(function)(
            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        ).jaxpr,
        **options,
    )


def test_flops_of_products_in_loops_branches_and_gradients():
    assert flops(lambda x, w: x @ w, (8, 16), (16, 32)) == 2 * 8 * 16 * 32
    assert (
        flops(lambda x, w: jnp.einsum("bij,bjk->bik", x, w), (3, 4, 5), (3, 5, 6))
        == 2 * 3 * 4 * 5 * 6
    )
    looped = lambda x, w: lax.scan(lambda c, _: (c @ w, None), x, length=7)[0]
    assert flops(looped, (4, 16), (16, 16)) == 7 * 2 * 4 * 16 * 16
    branched = lambda x, w: lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)
    assert flops(branched, (4, 16), (16, 16)) == 2 * 2 * 4 * 16 * 16
    assert flops(branched, (4, 16), (16, 16), branch=min) == 2 * 4 * 16 * 16
    gradient = jax.grad(lambda x, w: ((x @ w) ** 2).sum(), argnums=(0, 1))
    assert flops(jax.jit(gradient), (4, 16), (16, 16)) == 3 * 2 * 4 * 16 * 16
    recomputed = jax.grad(lambda x, w: (jax.checkpoint(lambda x: jnp.sin(x @ w))(x)).sum())
    assert (
        flops(recomputed, (4, 16), (16, 16)) == 3 * 2 * 4 * 16 * 16
    )  # forward, again, and the gradient of x


def test_flops_of_convolutions():
    def convolve(x, kernel, **options):
        return lax.conv_general_dilated(
            x, kernel, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    same = lambda x, k: convolve(x, k, window_strides=(1, 1))
    assert flops(same, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    strided = lambda x, k: convolve(x, k, window_strides=(2, 2))
    assert flops(strided, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    back = jax.grad(lambda x, k: (strided(x, k) ** 2).sum(), argnums=(0, 1))
    assert flops(back, (2, 8, 8, 3), (3, 3, 3, 5)) == pytest.approx(
        3 * 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    )


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": 2, "tensor": 4})


@pytest.mark.mesh
def test_collectives_in_a_loop_count_as_often_as_it_runs(mesh):
    def layers(x, stack):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w[0]) @ w[1], None), x, stack)[0]

    x = jax.ShapeDtypeStruct(
        (16, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    shardings = [
        NamedSharding(mesh, PartitionSpec(None, None, "tensor")),
        NamedSharding(mesh, PartitionSpec(None, "tensor")),
    ]
    stack = tuple(jax.ShapeDtypeStruct((5, 32, 32), jnp.float32, sharding=s) for s in shardings)
    traced = jax.jit(layers, out_shardings=x.sharding).trace(x, stack)
    costs = costs_of(traced.lower().compile(), traced.jaxpr.jaxpr, 8)
    assert costs.flops == 5 * 2 * (2 * 16 * 32 * 32) / 8
    assert costs.collectives == (
        Collective("all-reduce", 8 * 32 * 4, 4, 5),
    )  # a row of Megatron's sums: half of 16 rows
    assert costs.arguments == 8 * 32 * 4 + 2 * 5 * 32 * 8 * 4


@pytest.mark.mesh
def test_an_all_gather_over_all_devices(mesh):
    whole, rows = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(("data", "tensor"))),
    )
    compiled = (
        jax.jit(lambda x: x * 2, in_shardings=rows, out_shardings=whole)
        .lower(jax.ShapeDtypeStruct((64, 8), jnp.float32))
        .compile()
    )
    assert collectives_of(compiled.as_text(), 8) == (Collective("all-gather", 64 * 8 * 4, 8, 1),)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (
            "bf16[8,256]{1,0:T(8,128)} all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add",
            ("all-reduce", 4096, 4),
        ),
        (
            "f32[64]{0} all-reduce(%a), replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], "
            "device_ids=([2,4]T(1,0)) {'axis_0'}, to_apply=%add",
            ("all-reduce", 256, 4),
        ),
        (
            "(f32[64]{0}, f32[512]{0}) all-gather-start(%a), replica_groups={{0,1,2,3,4,5,6,7}}, "
            "dimensions={0}",
            ("all-gather", 2048, 8),
        ),
        (
            "(bf16[4]{0}, f32[2,2]{1,0}) all-reduce(%a, %b), channel_id=1, to_apply=%add",
            ("all-reduce", 24, 8),
        ),
    ],
)
def test_group_and_size_in_the_compilers_notations(operation, expected):
    hlo = f"HloModule m\n\nENTRY %main (a: f32[64]) -> f32[64] {{\n  ROOT %r = {operation}\n}}\n"
    found = collectives_of(hlo, 8)
    assert [(c.kind, c.bytes, c.group, c.count) for c in found] == [(*expected, 1)]


def test_rings_send_what_the_closed_forms_say():
    assert Collective("all-reduce", 800, 8, 1).wire_bytes == 1400
    assert Collective("all-gather", 800, 8, 1).wire_bytes == 700
    assert Collective("reduce-scatter", 100, 8, 1).wire_bytes == 700
    assert Collective("collective-permute", 800, 2, 1).wire_bytes == 800


def test_the_least_time_is_each_amount_over_its_rate():
    chip = Chip("toy", flops=10.0, memory=1.0, memory_bandwidth=4.0, link_bandwidth=7.0)
    costs = Costs(20.0, 12.0, 1, 1, 1, (Collective("all-reduce", 8, 8, 2),))
    assert (
        costs.seconds(chip) == {"compute": 2.0, "memory": 3.0, "network": 4.0}
        and costs.peak_memory == 3
    )


def test_an_unknown_chip_is_named():
    assert chip_of("TPU v5 lite").memory == 16e9
    with pytest.raises(ConfigError, match="'abacus'"):
        chip_of("abacus")
