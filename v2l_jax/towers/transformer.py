"""The pre-norm transformer that image and text towers share."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.ops.attention import SelfAttention
from v2l_jax.ops.matmul import dot_general_in

Activation = Literal["quick_gelu", "gelu", "gelu_pytorch_tanh", "swiglu"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one transformer.

    Attributes:
      width: of the residual stream.
      layers, heads: their numbers.
      mlp_width: of the hidden layer of each MLP.
      activation: "quick_gelu", x·sigmoid(1.702 x), in OpenAI's CLIP; "gelu" in most of LAION's,
        ViT, DeiT and DINOv2; "gelu_pytorch_tanh" in SigLIP; "swiglu", silu(x W) · x V (arXiv
        2002.05202), in DINOv2-g.
      layer_norm_eps: added to variances.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    layer_norm_eps: float = 1e-5


def activate(x: Float[Array, "*batch inner"], activation: Activation) -> Float[Array, "*batch _"]:
    """Applies the MLP's non-linearity; "swiglu" halves the last axis, the gate comes first."""
    if activation == "quick_gelu":
        return x * nn.sigmoid(1.702 * x)
    if activation == "swiglu":
        gate, up = jnp.split(x, 2, axis=-1)
        return nn.silu(gate) * up
    return nn.gelu(x, approximate=activation == "gelu_pytorch_tanh")


class Block(nn.Module):
    """Pre-norm transformer block."""

    config: TransformerConfig
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"], mask: Any = None
    ) -> tuple[Float[Array, "batch length width"], None]:
        """Transforms `x`, attending where `mask` says (everywhere, if None); the pair is what
        `nn.scan` wants.
        """
        c = self.config
        dot = dot_general_in(self.matmul_dtype)
        attention = SelfAttention(c.heads, self.matmul_dtype, name="attention")
        x = x + attention(layer_norm(c, "norm_1")(x), mask)
        inner = c.mlp_width * (2 if c.activation == "swiglu" else 1)
        y = nn.Dense(inner, dot_general=dot, name="mlp_in")(layer_norm(c, "norm_2")(x))
        y = activate(y, c.activation)
        return x + nn.Dense(c.width, dot_general=dot, name="mlp_out")(y), None


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm:
    """A LayerNorm with the transformer's epsilon."""
    return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


def blocks(config: TransformerConfig, matmul_dtype: DTypeLike) -> nn.Module:
    """All blocks as one scanned module; its parameters carry a leading layer axis."""
    scanned = nn.scan(
        Block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=config.layers,
    )
    return scanned(config, matmul_dtype, name="blocks")


def first_blocks(params: dict[str, Any], count: int) -> dict[str, Any]:
    """The parameters of a tower that has only its first `count` blocks."""
    return params | {"blocks": jax.tree.map(lambda x: x[:count], params["blocks"])}
