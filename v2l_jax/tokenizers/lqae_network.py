"""LQAE's vision transformers (Liu et al. 2023, "Language Quantized AutoEncoders"; NormFormer-style
blocks with a gated unit and a depthwise convolution over the grid of patches).

Names of parameters are this package's; `lqae_files` knows the published ones.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from v2l_jax.ops.precision import precision_of, products_in

_normal = nn.initializers.normal(0.02)
_norm = functools.partial(nn.LayerNorm, 1e-5, use_fast_variance=False)


def _dense(features: int, dtype: Dtype, name: str) -> nn.Dense:
    precision = precision_of(dtype)
    return nn.Dense(
        features, False, dtype=dtype, precision=precision, kernel_init=_normal, name=name
    )


class GridAttention(nn.Module):
    """Multi-head self-attention among all patches, without biases."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        batch, height, width, dim = x.shape
        shape = (batch, height * width, self.heads, dim // self.heads)
        parts = [
            _dense(dim, dtype=self.dtype, name=name)(x).reshape(shape)
            for name in ("query", "key", "value")
        ]
        with products_in(self.dtype):
            mixed = jax.nn.dot_product_attention(*parts).reshape(x.shape)
        return _dense(dim, dtype=self.dtype, name="out")(mixed)


class GatedUnit(nn.Module):
    """LN, gelu(W1 x) · (W2 x), depthwise 3×3 convolution, LN, W_out; the GELU is the tanh one."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        y = _norm(name="norm_in")(x)
        gate = nn.gelu(_dense(self.width, dtype=self.dtype, name="gate")(y), approximate=True)
        y = gate * _dense(self.width, dtype=self.dtype, name="value")(y)
        y = nn.Conv(
            self.width,
            (3, 3),
            feature_group_count=self.width,
            use_bias=False,
            kernel_init=_normal,
            dtype=self.dtype,
            precision=precision_of(self.dtype),
            name="convolution",
        )(y)
        return _dense(x.shape[-1], dtype=self.dtype, name="out")(_norm(name="norm_inner")(y))


class GridTransformer(nn.Module):
    """Position embeddings, then blocks x + LN(attention(LN(x))), x + unit(x); no norm at the end.

    Attributes:
      layers: blocks.
      heads: of attention.
      inner: width of the gated units.
      dtype: type of convolutions and matrix products.
    """

    layers: int
    heads: int
    inner: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        x = x + self.param("position", _normal, (1, *x.shape[1:]))
        for number in range(self.layers):
            y = _norm(name=f"block_{number}_norm_in")(x)
            y = GridAttention(self.heads, self.dtype, name=f"block_{number}_attention")(y)
            x = x + _norm(name=f"block_{number}_norm_out")(y)
            x = x + GatedUnit(self.inner, self.dtype, name=f"block_{number}_unit")(x)
        return x


class LQAENetwork(nn.Module):
    """Encoder and decoder; the language model between them stands outside.

    Attributes:
      patch: side of a patch in pixels.
      hidden: width of the transformers, and length of the codebook's vectors.
      layers, heads, inner: see `GridTransformer`.
      dtype: type of convolutions and matrix products.
    """

    patch: int = 16
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        sizes = (self.layers, self.heads, self.inner, self.dtype)
        self.patches = nn.Conv(
            self.hidden,
            (self.patch,) * 2,
            self.patch,
            padding="VALID",
            use_bias=False,
            kernel_init=_normal,
            dtype=self.dtype,
            precision=precision_of(self.dtype),
        )
        self.encoder, self.decoder = GridTransformer(*sizes), GridTransformer(*sizes)
        self.conv_out = PatchesToPixels(self.patch, self.dtype)

    def __call__(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """All layers, without a quantizer: for `init`."""
        return self.to_pixels(self.decode_features(self.features(image)))

    def features(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w d"]:
        """What the quantizer sees, float32."""
        return self.encoder(self.patches(image)).astype(jnp.float32)

    def decode_features(self, vectors: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Input of the last layer."""
        return self.decoder(vectors)

    def to_pixels(self, features: Float[Array, "b h w d"]) -> Float[Array, "b height width 3"]:
        """The last layer; float32."""
        return self.conv_out(features).astype(jnp.float32)


class PatchesToPixels(nn.Module):
    """A transposed convolution whose stride is its size: each patch is painted from one vector.

    Within a patch, pixel (a, b) uses kernel[patch − 1 − a, patch − 1 − b], as Flax's does.
    """

    patch: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b height width 3"]:
        side, (batch, height, width, dim) = self.patch, x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (side, side, dim, 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        kernel = kernel[::-1, ::-1].astype(self.dtype)
        precision = precision_of(self.dtype)
        y = jnp.einsum("bhwd,pqdc->bhpwqc", x.astype(self.dtype), kernel, precision=precision)
        return y.reshape(batch, height * side, width * side, 3) + bias
