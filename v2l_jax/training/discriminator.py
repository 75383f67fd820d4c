"""PatchGAN discriminator (Isola et al. 2017): scores overlapping patches of an image as real or
reconstructed.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from v2l_jax.ops.convolution import conv_general_dilated
from v2l_jax.ops.precision import precision_of

_EPSILON = 1e-5
_MOMENTUM = 0.1


class BatchNorm(nn.Module):
    """BatchNorm over batch and positions, with an unbiased running variance as in PyTorch (Flax's
    is biased).

    Under `jax.jit` with a sharded batch the statistics are those of the global batch. Statistics
    are float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width c"], train: bool
    ) -> Float[Array, "batch height width c"]:
        channels = x.shape[-1]
        scale = self.param("scale", lambda key: 1.0 + 0.02 * jax.random.normal(key, (channels,)))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        if train:
            count = x.size // channels
            mean = jnp.mean(x, axis=(0, 1, 2))
            var = jnp.mean((x - mean) ** 2, axis=(0, 1, 2))
            if not self.is_initializing():
                running_mean.value += _MOMENTUM * (mean - running_mean.value)
                running_var.value += _MOMENTUM * (var * (count / (count - 1)) - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (scale * jax.lax.rsqrt(var + _EPSILON)) + bias).astype(self.dtype)


class PatchDiscriminator(nn.Module):
    """4×4 convolutions with LeakyReLU(0.2): `num_layers` halve the side, two more keep it to the
    logit map.

    Apply with `mutable=["batch_stats"]` when `train` is true: batch statistics are used and the
    running ones move.

    Attributes:
      channels: width of the first layer; doubles at each layer up to eight times.
      num_layers: convolutions of stride 2.
      dtype: type of the convolutions.
    """

    channels: int = 64
    num_layers: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch h w 1"]:
        def conv(x: jax.Array, index: int, channels: int, stride: int, bias: bool) -> jax.Array:
            layer = nn.Conv(
                channels,
                (4, 4),
                stride,
                padding=1,
                use_bias=bias,
                dtype=self.dtype,
                precision=precision_of(self.dtype),
                kernel_init=nn.initializers.normal(0.02),
                conv_general_dilated=conv_general_dilated,
                name=f"conv_{index}",
            )
            return layer(x)

        x = nn.leaky_relu(conv(image, 0, self.channels, 2, bias=True), 0.2)
        for index in range(1, self.num_layers + 1):
            stride = 2 if index < self.num_layers else 1
            x = conv(x, index, self.channels * min(2**index, 8), stride, bias=False)
            x = nn.leaky_relu(BatchNorm(self.dtype, name=f"norm_{index}")(x, train), 0.2)
        return conv(x, self.num_layers + 1, 1, 1, bias=True).astype(jnp.float32)
