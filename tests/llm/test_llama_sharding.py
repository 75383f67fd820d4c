"""Rules of the LLaMA tower on a mesh: every matrix of the published sizes is split, what cannot be
is whole.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.llama_sharding import cache_spec, param_shardings
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.parallel.sharding import leaf_name

pytestmark = pytest.mark.mesh


def _config(vocab, hidden, inner, layers, heads, kv_heads, dim, **more):
    return LlamaConfig(
        vocab,
        hidden,
        inner,
        layers,
        heads,
        kv_heads,
        dim,
        4096,
        1e-5,
        rotary_frequencies(dim, 10000.0),
        **more,
    )


SIZES = {
    "llama-2-7b": _config(32000, 4096, 11008, 32, 32, 32, 128),
    "llama-2-70b": _config(32000, 8192, 28672, 80, 64, 8, 128),
    "qwen2-7b": _config(152064, 3584, 18944, 28, 28, 4, 128, qkv_bias=True),
    "smollm2-135m": _config(49152, 576, 1536, 30, 9, 3, 64, tied_embeddings=True),
}


def _shapes(config):
    rows = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(
        lambda key: Llama(config).init(key, rows, rows)["params"], jax.random.key(0)
    )


def _whole(params, mesh):
    """Matrices and biases that no device holds just an eighth of."""
    placed = jax.tree.map(
        lambda leaf, sharding: sharding.shard_shape(leaf.shape),
        params,
        param_shardings(params, mesh),
    )
    names = {
        leaf_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    parts = {
        leaf_name(path): shape
        for path, shape in jax.tree_util.tree_leaves_with_path(
            placed, is_leaf=lambda x: isinstance(x, tuple)
        )
    }
    return {name for name, shape in names.items() if np.prod(parts[name]) * 8 != np.prod(shape)}


@pytest.mark.parametrize(
    "name, whole",
    [
        ("llama-2-7b", set()),
        ("llama-2-70b", set()),
        ("qwen2-7b", {"layers/qkv", "layers/qkv_bias"}),
        ("smollm2-135m", {"layers/qkv"}),
    ],
)
def test_eight_devices_hold_an_eighth_of_every_matrix_that_divides(name, whole):
    norms = {"layers/attention_norm", "layers/mlp_norm", "final_norm"}
    assert _whole(_shapes(SIZES[name]), make_mesh({"tensor": 8})) == whole | norms


def test_without_a_tensor_axis_all_is_replicated():
    shardings = param_shardings(_shapes(SIZES["llama-2-7b"]), make_mesh({"data": 8}))
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))


@pytest.mark.parametrize(
    "axes, rows, heads, spec",
    [
        ({"data": 2, "tensor": 4}, 6, 8, P(None, "data", None, "tensor")),
        ({"data": 2, "tensor": 4}, 1, 8, P(None, None, None, "tensor")),
        ({"data": 2, "tensor": 4}, 6, 3, P(None, "data", None, None)),
        ({"replica": 2, "fsdp": 4}, 8, 8, P(None, ("replica", "fsdp"), None, None)),
        ({"tensor": 8}, 3, 8, P(None, None, None, "tensor")),
    ],
)
def test_keys_and_values_are_split_by_rows_and_heads(axes, rows, heads, spec):
    mesh = make_mesh(axes)
    shape = (2, rows, 5, heads, 16)
    found = NamedSharding(mesh, cache_spec(shape, mesh))
    assert found.is_equivalent_to(NamedSharding(mesh, spec), 5)


def test_loaded_parameters_lie_on_their_shards(tmp_path):
    config = dict(
        model_type="llama", vocab_size=16, hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=16, rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens": (16, 16),
        "model.norm": (16,),
        layer + "input_layernorm": (16,),
        layer + "post_attention_layernorm": (16,),
    }
    shapes |= {f"{layer}self_attn.{n}_proj": (16, 16) for n in "qkvo"}
    shapes |= {
        f"{layer}mlp.gate_proj": (24, 16),
        f"{layer}mlp.up_proj": (24, 16),
        f"{layer}mlp.down_proj": (16, 24),
    }
    save_file(
        {f"{n}.weight": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    mesh = jax.make_mesh((1, 8), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    _, whole = load_llama(tmp_path)
    _, split = load_llama(tmp_path, mesh=mesh)
    assert split["layers"]["gate_up"].addressable_shards[0].data.shape == (1, 16, 2, 3)
    assert split["layers"]["qkv"].addressable_shards[0].data.shape == (1, 16, 1, 3, 2)
    jax.tree.map(np.testing.assert_array_equal, whole, split)
