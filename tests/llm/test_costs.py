"""The formulas against the operations of the programs themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from launch.compiled_costs import flops_of
from v2l_jax.llm.adapter_step import adapter_loss
from v2l_jax.llm.connector import init_connector
from v2l_jax.llm.costs import adapter_parameters, forward_flops, matrix_parameters, training_flops
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.lora import PROJECTIONS, Lora, init_adapters

CONFIG = LlamaConfig(
    300, 64, 160, 3, 4, 2, 16, 96, 1e-5, rotary_frequencies(16, 1e4), tied_embeddings=True
)
MODEL, LORA = Llama(CONFIG), Lora(4, 8.0, ("q_proj", "v_proj", "down_proj"))
ROWS, LENGTH, TARGETS, SLOTS, DIM = 2, 12, 5, 8, 20


def _shapes(function, *arguments):
    return jax.eval_shape(function, *arguments)


def _params(model):
    zeros = jnp.zeros((1, 1), jnp.int32)
    return _shapes(lambda: model.init(jax.random.key(0), zeros, zeros)["params"])


@pytest.fixture(scope="module")
def params():
    return _params(MODEL)


def test_parameters(params):
    layers = params["layers"]
    matrices = sum(x.size for x in jax.tree.leaves(layers) if x.ndim > 2)
    assert matrix_parameters(CONFIG) == matrices
    lora = Lora(4, 8.0, PROJECTIONS)
    adapters = _shapes(lambda: init_adapters(jax.random.key(0), CONFIG, lora))
    assert adapter_parameters(CONFIG, lora) == sum(x.size for x in jax.tree.leaves(adapters))


def test_forward_pass(params):
    def run(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        hidden, _ = MODEL.apply({"params": params}, tokens, positions)
        return MODEL.apply({"params": params}, hidden[:, :TARGETS], method="logits")

    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    counted = flops_of(jax.make_jaxpr(run)(params, tokens).jaxpr)
    assert counted / ROWS == pytest.approx(forward_flops(CONFIG, LENGTH, TARGETS), rel=0.05)


def _step(model, params, connected=False):
    """Loss and gradients, and shapes of their arguments."""
    config = model.config
    adapters = dict(_shapes(lambda: init_adapters(jax.random.key(0), config, LORA)))
    batch = {
        "tokens": jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32),
        "targets": jax.ShapeDtypeStruct((ROWS, TARGETS), jnp.int32),
    }
    if connected:
        make = lambda: init_connector(jax.random.key(0), DIM, 64, 2, np.zeros(64), 1.0)
        adapters["connector"] = _shapes(make)
        batch["features"] = jax.ShapeDtypeStruct((ROWS, SLOTS, DIM), jnp.float32)
    else:
        adapters["new_rows"] = {"rows": jax.ShapeDtypeStruct((10, 64), jnp.float32)}
    loss = lambda adapters, params, batch: adapter_loss(
        model, params, adapters, LORA.scale, batch, ROWS * TARGETS
    )
    return jax.value_and_grad(loss), (adapters, params, batch)


@pytest.mark.parametrize("connected", [False, True])
def test_training_step(params, connected):
    step, arguments = _step(MODEL, params, connected)
    jaxpr = jax.make_jaxpr(step)(*arguments).jaxpr
    jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as XLA does
    sizes = [(DIM, 64, SLOTS), (64, 64, SLOTS)] if connected else []
    wanted = training_flops(CONFIG, LORA, LENGTH, TARGETS, sizes, recomputed=True)
    assert flops_of(jaxpr) / ROWS == pytest.approx(wanted, rel=0.05)


def test_xla_counts_as_much():
    """Of one layer, because XLA counts what a loop repeats once."""
    model = Llama(dataclasses.replace(CONFIG, num_layers=1, intermediate_size=512))
    step, arguments = _step(model, _params(model))
    counted = jax.jit(step).lower(*arguments).compile().cost_analysis()
    assert counted is not None
    wanted = training_flops(model.config, LORA, LENGTH, TARGETS, recomputed=True)
    assert counted["flops"] / ROWS == pytest.approx(wanted, rel=0.05)
    once = training_flops(model.config, LORA, LENGTH, TARGETS)
    per_parameter = once / LENGTH / matrix_parameters(model.config)
    assert 4 < per_parameter < 5  # and not 6: frozen matrices have no gradients
