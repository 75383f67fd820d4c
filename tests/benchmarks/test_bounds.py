"""Operation and byte counts against the network's own arrays and against counting one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bounds
from benchmarks.incontext import SHAPES
from v2l_jax.llm.costs import matrix_parameters
from v2l_jax.llm.llama import Llama


def params(config):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(Llama(config).init, jax.random.key(0), tokens, tokens)["params"]


@pytest.mark.parametrize("shape", ["tiny", "llama2-7b"])
def test_matrix_elements_are_the_networks(shape):
    layers = params(SHAPES[shape])["layers"]
    assert matrix_parameters(SHAPES[shape]) == sum(
        leaf.size for name, leaf in layers.items() if "norm" not in name
    )


def test_llama2_7b_has_its_published_size():
    assert sum(leaf.size for leaf in jax.tree.leaves(params(SHAPES["llama2-7b"]))) == 6_738_415_616


def test_operations_counted_one_by_one():
    config = SHAPES["tiny"]
    expected = 0
    for length in (3, 5):
        for position in range(length + 1):  # two new tokens: the first is fed back
            expected += 2 * matrix_parameters(config)
            for _ in range(position + 1):  # scores, then the weighted sum of values
                expected += 2 * 2 * config.num_layers * config.num_heads * config.head_dim
        expected += 2 * 2 * config.vocab_size * config.hidden_size
    assert bounds.flops(config, [3, 5], 2) == expected


def test_distinct_share_counts_different_beginnings():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, size=rng.integers(1, 7)).tolist() for _ in range(40)]
    beginnings = {tuple(p[: i + 1]) for p in prompts for i in range(len(p))}
    assert bounds.distinct_share(prompts) == pytest.approx(len(beginnings) / sum(map(len, prompts)))


def test_decoding_reads_weights_once_and_every_rows_cache():
    config = SHAPES["tiny"]
    cache = np.zeros(
        (2, config.num_layers, 7, 10, config.num_kv_heads, config.head_dim), np.float16
    )
    weights = matrix_parameters(config) + config.vocab_size * config.hidden_size
    assert bounds.decode_bytes(config, 7, 10.0, 2) == 2 * weights + cache.nbytes
