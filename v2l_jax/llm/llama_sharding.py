"""How the LLaMA tower lies on a mesh: rules for its parameters, and where keys and values are
kept.
"""

from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from v2l_jax.parallel.mesh import TENSOR_AXIS, batch_sharding, batch_shards, place
from v2l_jax.parallel.sharding import tree_shardings

TENSOR_RULES = (
    (r"(^|/)embedding$", (TENSOR_AXIS, None)),
    (r"(^|/)output$", (None, TENSOR_AXIS)),
    (r"layers/qkv$", (None, None, TENSOR_AXIS, None, None)),
    (r"layers/qkv_bias$", (None, TENSOR_AXIS, None, None)),
    (r"layers/attention_output$", (None, TENSOR_AXIS, None)),
    (r"layers/gate_up$", (None, None, None, TENSOR_AXIS)),
    (r"layers/down$", (None, TENSOR_AXIS, None)),
)
"""Vocabulary, key/value heads with their queries, and the width of the MLP over "tensor"
(Megatron-LM, arXiv 1909.08053).

One sum over devices after attention and one after the MLP of each layer. Norms are replicated.
"""


def param_shardings(params: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every parameter of `Llama` by `TENSOR_RULES`; replicated over the batch axes.

    A leaf whose dimension does not divide by the "tensor" axis is replicated: the three key/value
    heads of SmolLM2-135M on any such axis but 3, while its vocabulary and MLP divide by 8. LLaMA-2
    7B divides up to 32 ways, 70B up to 8.

    Args:
      params: arrays, numpy arrays or shapes.
      mesh: the devices; where the "tensor" axis is absent or of size 1 everything is replicated.
    """
    rules = TENSOR_RULES if TENSOR_AXIS in mesh.shape else ()
    return tree_shardings(params, mesh, rules, misfits="replicate")


def cache_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Where keys or values [layers, rows, length, kv_heads, head_dim] are kept: rows over the batch
    axes, heads over "tensor".

    Rows that do not divide (a prefix that all prompts share) are on every device of the batch axes;
    so are heads on "tensor".
    """
    rows = batch_sharding(mesh).spec[0] if shape[1] % batch_shards(mesh) == 0 else None
    heads = (
        TENSOR_AXIS
        if TENSOR_AXIS in mesh.shape and shape[3] % mesh.shape[TENSOR_AXIS] == 0
        else None
    )
    return PartitionSpec(None, rows, None, heads)


def place_params(params: PyTree, mesh: Mesh | None) -> Any:
    """Puts parameters on the devices, each leaf straight to its shards: no device ever holds more
    than its part.
    """
    if mesh is None:
        return jax.device_put(params)
    return place(params, param_shardings(params, mesh))
