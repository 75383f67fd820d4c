"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank changes of a frozen language model.

A projection W of shape [out, in] becomes W + alpha / rank * B A, with A [rank, in] and B [out,
rank]. Only A and B train. `Llama(..., adapters=scaled(adapters, lora.scale))` computes it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.errors import ConfigError
from v2l_jax.llm.llama_config import LlamaConfig
from v2l_jax.ops.matmul import einsum_in

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

      rank_stabilised: the change is scaled by alpha / √rank instead, so that it does not shrink as
        the rank grows (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).

    Raises:
      ConfigError: an unknown or repeated projection, none at all, or a rank below 1.
    """

    rank: int = 4
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj")
    rank_stabilised: bool = False

    def __post_init__(self):
        unknown = sorted(set(self.targets) - set(PROJECTIONS))
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(
                f"LoRA targets are {self.targets}, but must be different names of "
                f"{', '.join(PROJECTIONS)}"
            )
        if self.rank < 1:
            raise ConfigError(f"the LoRA rank is {self.rank}, but must be at least 1")

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


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


def scaled(adapters: Adapters, scale: float) -> Adapters:
    """Adapters with `Lora.scale` multiplied into B, as `Llama` takes them."""
    return {
        target: {"lora_A": matrices["lora_A"], "lora_B": matrices["lora_B"] * scale}
        for target, matrices in adapters.items()
    }


def adapt(
    product: Float[Array, "batch length *out"],
    x: Float[Array, "batch length in"],
    adapters: Adapters,
    widths: Mapping[str, int],
    dtype: DTypeLike,
) -> Float[Array, "batch length *out"]:
    """Adds the low-rank products of one layer's adapters, x Aᵀ Bᵀ, to the frozen product x W.

    The change of W itself is never built, forward or backward, so the memory of training grows with
    the adapters and not with W.

    Args:
      product: x W. Where W is several projections side by side, they lie along the axis before the
        last one.
      x: what was multiplied.
      adapters: one layer's, scaled; those of other projections are ignored.
      widths: the projections in W in order, and how many rows each takes of that axis.
      dtype: of the inputs of the matrix products; sums are float32.
    """
    if not adapters.keys() & widths.keys():
        return product
    parts = []
    for name, width in widths.items():
        shape = (
            product.shape if len(widths) == 1 else (*product.shape[:-2], width, product.shape[-1])
        )
        if name in adapters:
            inner = einsum_in("bsi,ri->bsr", x, adapters[name]["lora_A"], dtype)
            change: Array = einsum_in("bsr,or->bso", inner, adapters[name]["lora_B"], dtype)
            parts.append(change.reshape(shape))
        else:
            parts.append(jnp.zeros(shape, product.dtype))
    return product + (parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-2))
