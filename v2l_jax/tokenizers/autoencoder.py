"""The VQ-GAN encoder and decoder (Esser et al. 2021), with V2L's cross-attention to global words in
the decoder.

Images are NHWC. Normalization statistics and softmax are float32; matrix products and convolutions
run in `dtype`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from v2l_jax.ops.convolution import conv_general_dilated
from v2l_jax.ops.group_norm import GroupNorm
from v2l_jax.ops.precision import precision_of
from v2l_jax.training.remat import BLOCK_OUTPUT

# What PyTorch's layers, and so the published model, start from: uniform within ± fan_in^-0.5.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _conv(*sizes: Any, dtype: Dtype, **settings: Any) -> nn.Conv:
    return nn.Conv(
        *sizes,
        dtype=dtype,
        precision=precision_of(dtype),
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        **settings,
    )


def attention_levels(
    channel_multipliers: tuple[int, ...], attn_resolutions: tuple[int, ...], resolution: int
) -> tuple[bool, ...]:
    """Says for each level, finest first, whether self-attention follows its residual blocks.

    Args:
      channel_multipliers: one entry a level; each level but the last halves the resolution.
      attn_resolutions: resolutions with attention, counted from `resolution`.
      resolution: nominal side of the input; placement depends on it alone, not on the images really
        given.
    """
    return tuple(
        (resolution >> level) in attn_resolutions for level in range(len(channel_multipliers))
    )


def conv3x3(channels: int, dtype: Dtype, name: str | None = None) -> nn.Conv:
    """A 3×3 convolution of stride 1 that keeps the size."""
    return _conv(channels, (3, 3), padding=1, dtype=dtype, name=name)


def downsample(channels: int, dtype: Dtype, name: str) -> nn.Conv:
    """A 3×3 convolution of stride 2, padded at the bottom and the right only."""
    return _conv(channels, (3, 3), 2, ((0, 1), (0, 1)), dtype=dtype, name=name)


def dense(features: int, dtype: Dtype, name: str | None = None, use_bias: bool = True) -> nn.Dense:
    """A linear map of the last axis: a 1×1 convolution."""
    return nn.Dense(
        features,
        use_bias,
        dtype=dtype,
        precision=precision_of(dtype),
        kernel_init=kernel_init,
        name=name,
    )


class ResidualBlock(nn.Module):
    """Two GroupNorm-swish-convolution stages around a shortcut (1×1 where the width changes)."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width _"]
    ) -> Float[Array, "batch height width _"]:
        hidden = GroupNorm(self.dtype, swish=True, name="norm1")(x)
        hidden = conv3x3(self.channels, self.dtype, "conv1")(hidden)
        hidden = GroupNorm(self.dtype, swish=True, name="norm2")(hidden)
        hidden = conv3x3(self.channels, self.dtype, "conv2")(hidden)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.dtype, "shortcut")(x)
        return checkpoint_name(x + hidden, BLOCK_OUTPUT)


class SelfAttention(nn.Module):
    """Single-head attention among all positions of a feature map, added to its input."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width c"]
    ) -> Float[Array, "batch height width c"]:
        batch, height, width, channels = x.shape
        hidden = GroupNorm(self.dtype, name="norm")(x).reshape(batch, height * width, channels)
        query, key, value = (
            dense(channels, self.dtype, name)(hidden) for name in ("query", "key", "value")
        )
        mixed = attend(query, key, value, 1, self.dtype)
        attended = dense(channels, self.dtype, "out")(mixed).reshape(x.shape)
        return checkpoint_name(x + attended, BLOCK_OUTPUT)


class CrossAttention(nn.Module):
    """Attention from the positions of a feature map to a few context vectors; each head is as wide
    as the map.

    The result replaces the features: there is no residual path around it.
    """

    heads: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width c"], context: Float[Array, "batch k d"]
    ) -> Float[Array, "batch height width c"]:
        batch, height, width, channels = x.shape
        inputs = {
            "query": x.reshape(batch, height * width, channels),
            "key": context,
            "value": context,
        }
        query, key, value = [
            dense(self.heads * channels, self.dtype, name, use_bias=False)(y)
            for name, y in inputs.items()
        ]
        mixed = attend(query, key, value, self.heads, self.dtype)
        return dense(channels, self.dtype, "out")(mixed).reshape(x.shape)


def attend(
    query: Float[Array, "batch n inner"],
    key: Float[Array, "batch m inner"],
    value: Float[Array, "batch m inner"],
    heads: int,
    dtype: Dtype,
) -> Float[Array, "batch n inner"]:
    """Scaled dot-product attention over `heads` equal slices of the last axis; products are those
    of `dtype`, the softmax is float32.
    """
    product = functools.partial(jnp.einsum, precision=precision_of(dtype))
    query, key, value = (t.reshape(*t.shape[:2], heads, -1) for t in (query, key, value))
    logits = (
        product("bnhc,bmhc->bhnm", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return product("bhnm,bmhc->bnhc", weights, value).reshape(*query.shape[:2], -1)


class Middle(nn.Module):
    """Residual block, self-attention, cross-attention where a context is given, residual block."""

    cross_attention_heads: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width c"],
        context: Float[Array, "batch k d"] | None = None,
    ) -> Float[Array, "batch height width c"]:
        x = ResidualBlock(x.shape[-1], self.dtype, name="block_1")(x)
        x = SelfAttention(self.dtype, name="attention")(x)
        if context is not None:
            x = CrossAttention(self.cross_attention_heads, self.dtype, name="cross_attention")(
                x, context
            )
        return ResidualBlock(x.shape[-1], self.dtype, name="block_2")(x)


class Encoder(nn.Module):
    """Image to feature map; the side shrinks by 2 between levels.

    Attributes:
      channels: width at the first level.
      channel_multipliers: width of each level over `channels`, finest first.
      num_res_blocks: residual blocks a level.
      z_channels: width of the output.
      attention: for each level, whether self-attention follows its residual blocks.
      dtype: type of convolutions and matrix products.
    """

    channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    attention: tuple[bool, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width 3"]) -> Float[Array, "batch h w z"]:
        x = conv3x3(self.channels, self.dtype, "conv_in")(image)
        last = len(self.channel_multipliers) - 1
        for level, multiplier in enumerate(self.channel_multipliers):
            for block in range(self.num_res_blocks):
                x = ResidualBlock(
                    self.channels * multiplier, self.dtype, name=f"level_{level}_block_{block}"
                )(x)
                if self.attention[level]:
                    x = SelfAttention(self.dtype, name=f"level_{level}_attention_{block}")(x)
            if level != last:
                x = downsample(x.shape[-1], self.dtype, f"level_{level}_downsample")(x)
        x = Middle(dtype=self.dtype, name="middle")(x)
        x = GroupNorm(self.dtype, swish=True, name="norm_out")(x)
        return conv3x3(self.z_channels, self.dtype, "conv_out")(x)


class Decoder(nn.Module):
    """Feature map and global words to image; mirrors `Encoder` with one more residual block a
    level.

    Its last convolution is a separate module (`V2LTokenizer` owns it): the adaptive GAN weight
    differentiates that kernel alone. What is returned here is that convolution's input.

    Attributes: as in `Encoder`, and
      cross_attention_heads: heads of the attention to global words.
    """

    channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    cross_attention_heads: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch h w z"], context: Float[Array, "batch k d"] | None = None
    ) -> Float[Array, "batch height width c"]:
        x = conv3x3(self.channels * self.channel_multipliers[-1], self.dtype, "conv_in")(z)
        x = Middle(self.cross_attention_heads, self.dtype, name="middle")(x, context)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for block in range(self.num_res_blocks + 1):
                x = ResidualBlock(
                    self.channels * multiplier, self.dtype, name=f"level_{level}_block_{block}"
                )(x)
                if self.attention[level]:
                    x = SelfAttention(self.dtype, name=f"level_{level}_attention_{block}")(x)
            if level != 0:
                x = UpsampleConv(self.dtype, name=f"level_{level}_upsample")(x)
        return GroupNorm(self.dtype, swish=True, name="norm_out")(x)


class UpsampleConv(nn.Module):
    """Doubles height and width by repeating each pixel, then a 3×3 convolution that keeps the size.

    Of the nine pixels under the kernel only four differ. So, for each of the four places in a
    doubled pixel, the rows and columns of the kernel that meet the same pixel are added up first,
    and 2×2 convolutions of the small image do the rest: 16 products instead of 36.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch height width c"]:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", kernel_init, (3, 3, channels, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        # [place in the doubled pixel, pixel, row of the kernel]: which rows meet which pixel.
        meets = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], jnp.float32)
        kernels = jnp.einsum(
            "aip,bjq,pqcd->abijcd", meets, meets, kernel, precision=jax.lax.Precision.HIGHEST
        )
        x, kernels = x.astype(self.dtype), kernels.astype(self.dtype)
        precision = precision_of(self.dtype)

        def at(a: int, b: int) -> jax.Array:
            pads = ((1 - a, a), (1 - b, b))
            return conv_general_dilated(x, kernels[a, b], (1, 1), pads, precision=precision)

        x = jnp.stack([jnp.stack([at(a, b) for b in (0, 1)], axis=3) for a in (0, 1)], axis=2)
        return x.reshape(batch, 2 * height, 2 * width, channels) + bias.astype(self.dtype)
