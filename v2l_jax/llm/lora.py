"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank changes of a frozen `towers.llama` network, as
pure functions.

A projection W of shape [out, in] becomes W + alpha / rank * B A, with A [rank, in] and B [out,
rank]. Only A and B train.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from v2l_jax.errors import ConfigError
from v2l_jax.llm.llama_config import LlamaConfig

Adapters = dict[str, dict[str, Array]]
"""{"q_proj": {"lora_A": [layers, rank, in], "lora_B": [layers, out, rank]}, …}, float32, in the row
order of Hugging Face.
"""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which projections change, and how much.

    Attributes:
      rank: inner dimension of B A.
      alpha: the change is scaled by alpha / rank.
      targets: names in `PROJECTIONS`. The default, with rank and alpha, is that of Zhu et al. 2024.

    Raises:
      ConfigError: an unknown or repeated projection, none at all, or a rank below 1.
    """

    rank: int = 4
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj")

    def __post_init__(self):
        unknown = sorted(set(self.targets) - set(PROJECTIONS))
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(
                f"LoRA targets are {self.targets}, but must be different names of {', '.join(PROJECTIONS)}"
            )
        if self.rank < 1:
            raise ConfigError(f"the LoRA rank is {self.rank}, but must be at least 1")

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / self.rank


def projection_sizes(config: LlamaConfig, projection: str) -> tuple[int, int]:
    """(out, in) of a projection's matrix."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }[projection]


def init_adapters(key: Array, config: LlamaConfig, lora: Lora) -> Adapters:
    """Adapters that change nothing yet: A uniform in ±in^-1/2 (PEFT's Kaiming start), B zero.

    Args:
      key: PRNG key.
      config: sizes of the network.
      lora: rank and targets.
    """
    adapters = {}
    for k, target in zip(jax.random.split(key, len(lora.targets)), lora.targets):
        out, width = projection_sizes(config, target)
        shape = (config.num_layers, lora.rank, width)
        adapters[target] = {
            "lora_A": jax.random.uniform(k, shape, minval=-(width**-0.5), maxval=width**-0.5),
            "lora_B": jnp.zeros((config.num_layers, out, lora.rank)),
        }
    return adapters


def merged(
    config: LlamaConfig, params: Mapping[str, Any], adapters: Adapters, scale: float
) -> dict[str, Any]:
    """Parameters of the changed network; differentiable in the adapters, constant in `params`.

    Only the stacks that an adapter touches are new arrays. Sums are taken in float32 and rounded
    once to the type of the base, as mixed-precision training rounds its float32 weights.

    Args:
      config: sizes of the network.
      params: the frozen parameters of `towers.llama.Llama`, also as `scannable` gives them.
      adapters: from `init_adapters` or `peft_files.load_adapters`.
      scale: `Lora.scale`.
    """
    layers = dict(params["layers"])
    changes = {name: _change(config, name, leaf) * scale for name, leaf in adapters.items()}
    for name, parts in _FUSED.items():
        if changes.keys() & set(parts):
            base = lax.stop_gradient(_from_bits(jnp.asarray(layers[name])))
            change = _fused(config, name, changes, base.shape)
            layers[name] = (base.astype(jnp.float32) + change).astype(base.dtype)
    return {**params, "layers": layers}


_FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "attention_output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Stack of `towers.llama` to the projections that lie in it side by side."""


def _change(
    config: LlamaConfig, projection: str, adapter: Mapping[str, Array]
) -> Float[Array, "layers in *out"]:
    """A B transposed, the output axis as the tower has it."""
    product = jnp.einsum(
        "lri,lor->lio", adapter["lora_A"], adapter["lora_B"], precision=lax.Precision.HIGHEST
    )
    if projection in ("q_proj", "k_proj", "v_proj"):
        return product.reshape(*product.shape[:2], config.num_kv_heads, -1, config.head_dim)
    return product[:, :, None] if projection in ("gate_proj", "up_proj") else product


def _fused(
    config: LlamaConfig, name: str, changes: Mapping[str, Array], shape: tuple[int, ...]
) -> Array:
    """The change of a whole stack; zeros where no adapter is."""
    parts = _FUSED[name]
    if len(parts) == 1:
        return changes[parts[0]]
    widths = {"q_proj": config.queries_per_kv}
    absent = lambda part: jnp.zeros((*shape[:-2], widths.get(part, 1), shape[-1]))
    return jnp.concatenate(
        [changes[part] if part in changes else absent(part) for part in parts], axis=-2
    )


def _from_bits(stack: Array) -> Array:
    """bfloat16 that `scannable` holds as bits."""
    return lax.bitcast_convert_type(stack, jnp.bfloat16) if stack.dtype == jnp.uint16 else stack
