"""The programs that a run is made of, lowered for a mesh from shapes alone: nothing is loaded,
nothing is allocated.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from v2l_jax.llm.adapter_step import adapter_optimizer, initial_state, make_adapter_step
from v2l_jax.llm.llama import KVCache, Llama
from v2l_jax.llm.llama_config import LlamaConfig, config_from_huggingface
from v2l_jax.llm.llama_sharding import cache_spec, param_shardings
from v2l_jax.llm.lora import Lora
from v2l_jax.parallel.mesh import batch_sharding
from v2l_jax.run import building
from v2l_jax.towers import vgg

_LLAMA_2 = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LLAMAS = {
    "llama-2-7b": _LLAMA_2
    | {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llama-2-13b": _LLAMA_2
    | {
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "llama-2-70b": _LLAMA_2
    | {
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""config.json of the models in the paper's tables (Touvron et al. 2023)."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Sizes of the codebooks: the paper's by default (LLaMA-2's vocabulary, CLIP ViT-L/14's
    space).
    """

    num_local: int = 32_000
    num_global: int = 11_908
    dim: int = 768


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced program (`jax.stages.Traced`), and the bytes a chip holds of each part of its
    arguments.
    """

    traced: Any
    held: dict[str, int]


def train_step(config: ConfigDict, mesh: Mesh, words: Words, num_images: int) -> Program:
    """The tokenizer's train step of a config, every leaf where `config.sharding` puts it."""
    vectors = {
        "local": _shape(words.num_local, words.dim),
        "global": _shape(words.num_global, words.dim),
    }
    tokenizer = building.tokenizer(config, vectors)
    trainer = building.trainer(config, tokenizer, num_images, mesh)
    state, lpips = trainer.state_shapes, None
    if config.train.perceptual:
        image = _shape(1, config.model.image_size, config.model.image_size, 3)
        lpips = jax.eval_shape(vgg.LPIPS().init, jax.random.key(0), image, image)["params"]
    frozen = {"frozen": building.frozen_inputs(tokenizer, vectors, lpips)}
    frozen = trainer.placed_shapes(frozen)["frozen"]
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)),
        trainer.batch_shapes(config.train.batch_size),
    )
    held = {
        "parameters": _bytes(state.params) + _bytes(state.disc_params),
        "optimizers": _bytes(state.opt_state) + _bytes(state.disc_opt_state),
        "frozen": _bytes(frozen),
        "batch": _bytes(batch),
    }
    return Program(trainer.step_function().trace(state, batch, frozen), held)


def llama_prefill(name: str, mesh: Mesh, batch: int, length: int) -> Program:
    """Keys, values and last logits of `batch` prompts of `length` tokens, in bfloat16."""
    model, params = _llama(name, mesh)
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=batch_sharding(mesh))

    def prefill(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        hidden, cache = model.apply({"params": params}, tokens, positions, keep=True)
        return model.apply({"params": params}, hidden[:, -1], method="logits"), cache

    cache = _cache(model.config, mesh, batch, length)
    outputs = (
        NamedSharding(mesh, PartitionSpec(batch_sharding(mesh).spec[0])),
        jax.tree.map(lambda x: x.sharding, cache),
    )
    return Program(
        jax.jit(prefill, out_shardings=outputs).trace(params, tokens),
        {"parameters": _bytes(params)},
    )


def llama_decode(name: str, mesh: Mesh, batch: int, length: int) -> Program:
    """One token more for each of `batch` rows whose cache has room for `length`, in bfloat16; the
    cache is donated.
    """
    model, params = _llama(name, mesh)
    cache = _cache(model.config, mesh, batch, length)
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32, sharding=batch_sharding(mesh))

    def decode(params, cache, tokens):
        positions = jnp.broadcast_to(cache.cursor, tokens.shape)
        hidden, cache = model.apply({"params": params}, tokens, positions, cache=cache)
        logits = model.apply({"params": params}, hidden[:, 0], method="logits")
        return jnp.argmax(logits, -1), cache

    held = {"parameters": _bytes(params), "cache": _bytes(cache)}
    return Program(jax.jit(decode, donate_argnums=1).trace(params, cache, tokens), held)


def adapter_step(
    name: str, mesh: Mesh, batch: int, length: int, lora: Lora | None = None
) -> Program:
    """A training step of LoRA adapters (`Lora()` by default) on a frozen LLaMA in bfloat16: `batch`
    texts of `length` tokens, half of which are targets.
    """
    lora = lora or Lora()
    model, params = _llama(name, mesh)
    tx = adapter_optimizer(1e-4, 10, 100)
    state = jax.eval_shape(lambda: initial_state(jax.random.key(0), model, lora, tx))
    whole = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
    texts = {
        "tokens": jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=batch_sharding(mesh)),
        "targets": jax.ShapeDtypeStruct(
            (batch, length // 2), jnp.int32, sharding=batch_sharding(mesh)
        ),
    }
    held = {
        "parameters": _bytes(params),
        "adapters": _bytes(state.adapters),
        "optimizer": _bytes(state.opt_state),
    }
    return Program(make_adapter_step(model, lora, tx).trace(state, texts, params), held)


LLM_PROGRAMS = {"prefill": llama_prefill, "decode": llama_decode, "adapters": adapter_step}
"""What `launch.aot --program` compiles for a language model."""


def _llama(name: str, mesh: Mesh) -> tuple[Llama, Any]:
    model = Llama(config_from_huggingface(LLAMAS[name]), jnp.bfloat16, jnp.bfloat16)
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    shardings = param_shardings(params, mesh)
    return model, jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings
    )


def _cache(config: LlamaConfig, mesh: Mesh, batch: int, length: int) -> KVCache:
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    kept = jax.ShapeDtypeStruct(
        shape, jnp.bfloat16, sharding=NamedSharding(mesh, cache_spec(shape, mesh))
    )
    return KVCache(
        kept,
        kept,
        jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=batch_sharding(mesh)),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec())),
    )


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def _bytes(tree: Any) -> int:
    """What one chip holds of a tree of placed shapes."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )
