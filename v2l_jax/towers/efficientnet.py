"""EfficientNet-Lite0 to Lite4, ImageNet classifiers (Tan & Le 2019, and the Lite variants of the
TPU repository).

Lite differs from EfficientNet-B: ReLU6 in place of swish, no squeeze-and-excitation, stem and head
not scaled. Batch norm is folded into the convolutions when a checkpoint is loaded, so the network
here has none.
"""

import math
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import CheckedTensors, arrays_by_name, fitting_together
from v2l_jax.formats.torch_files import read_torch
from v2l_jax.ops.matmul import dot_general_in
from v2l_jax.ops.precision import EXACT

# name: (width multiplier, depth multiplier, image size in pixels)
VARIANTS = {
    "lite0": (1.0, 1.0, 224),
    "lite1": (1.0, 1.1, 240),
    "lite2": (1.1, 1.2, 260),
    "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300),
}

# repeats, kernel size, stride of the first block, expansion, channels; before scaling
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
BATCH_NORM_EPSILON = 1e-3

# our layer: (convolution, batch norm) in the checkpoint, of the network and of a block
NETWORK_NAMES = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
BLOCK_NAMES = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def scale_channels(channels: int, width: float) -> int:
    """Scales a channel count and rounds it to a multiple of 8, at least nine tenths of the scaled
    count (EfficientNet code).
    """
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled


def block_table(width: float, depth: float) -> tuple[tuple[int, int, int, int], ...]:
    """Lists every block of a variant as (kernel size, stride, expansion, output channels)."""
    blocks = []
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        scaled_repeats = repeats if i in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
        for repeat in range(scaled_repeats):
            blocks.append(
                (kernel, stride if repeat == 0 else 1, expansion, scale_channels(channels, width))
            )
    return tuple(blocks)


class DepthwiseConv(nn.Module):
    """Depthwise convolution with TensorFlow's "SAME" padding, a bias and ReLU6, in float32.

    It is written as a sum of shifted products, which XLA fuses into one loop: on CPU five to twenty
    times faster than its grouped convolution.
    """

    kernel_size: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height2 width2 channel"]:
        """Filters each channel by itself; output sides are the input's divided by the stride,
        rounded up.
        """
        batch, height, width, channels = x.shape
        k, s = self.kernel_size, self.stride
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (k, k, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        (top, bottom), (left, right) = jax.lax.padtype_to_pads(
            (height, width), (k, k), (s, s), "SAME"
        )
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        last_row, last_column = s * (-(-height // s) - 1) + 1, s * (-(-width // s) - 1) + 1
        y = bias
        for i in range(k):
            for j in range(k):
                window = x[:, i : i + last_row : s, j : j + last_column : s]
                y = y + window * kernel[i, j]
        return jnp.clip(y, 0, 6)


class Block(nn.Module):
    """Inverted residual block (Sandler et al. 2018): expand, filter depthwise, project, add where
    shapes allow.
    """

    kernel_size: int
    stride: int
    expansion: int
    channels: int
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height2 width2 channel2"]:
        """Maps features to `channels` channels, sides divided by `stride`."""
        dot = dot_general_in(self.matmul_dtype)
        y = x
        if self.expansion != 1:
            y = jnp.clip(
                nn.Dense(self.expansion * x.shape[-1], dot_general=dot, name="expand")(y), 0, 6
            )
        y = DepthwiseConv(self.kernel_size, self.stride, name="depthwise")(y)
        y = nn.Dense(self.channels, dot_general=dot, name="project")(y)
        return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class EfficientNet(nn.Module):
    """EfficientNet-Lite classifier with batch norm folded.

    Attributes:
      width, depth: multipliers of channels and of repeats, see `VARIANTS`.
      num_classes: logits.
      matmul_dtype: type that the 1x1 convolutions, nearly all of the arithmetic, round their
        operands to.
    """

    width: float
    depth: float
    num_classes: int = 1000
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch class"]:
        """Classifies images of pixels (x - 127) / 128, x in 0 to 255; returns logits."""
        dot = dot_general_in(self.matmul_dtype)
        stem = nn.Conv(STEM_CHANNELS, (3, 3), 2, padding="SAME", precision=EXACT, name="stem")
        x = jnp.clip(stem(images), 0, 6)
        for i, (kernel, stride, expansion, channels) in enumerate(
            block_table(self.width, self.depth)
        ):
            x = Block(kernel, stride, expansion, channels, self.matmul_dtype, name=f"block_{i}")(x)
        x = jnp.clip(nn.Dense(HEAD_CHANNELS, dot_general=dot, name="head")(x), 0, 6)
        return nn.Dense(self.num_classes, dot_general=dot, name="classifier")(x.mean(axis=(1, 2)))


def fold_batch_norm(
    tensors: Mapping[str, np.ndarray], conv: str, norm: str
) -> dict[str, np.ndarray]:
    """Merges a bias-free convolution and the batch norm after it into one kernel (HWIO) and bias.

    y = (conv(x) - mean) · scale / sqrt(variance + eps) + shift is linear in x, so both are one
    convolution.
    """
    scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    kernel = tensors[f"{conv}.weight"] * scale[:, None, None, None]
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return {
        "kernel": kernel.transpose(2, 3, 1, 0).astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def convert_checkpoint(tensors: Mapping[str, np.ndarray], num_blocks: int) -> dict[str, dict]:
    """Turns checkpoint tensors (`_blocks.0._expand_conv.weight`, …; OIHW) into `EfficientNet`
    parameters.
    """
    params = {ours: fold_batch_norm(tensors, *theirs) for ours, theirs in NETWORK_NAMES.items()}
    params["head"]["kernel"] = params["head"]["kernel"][0, 0]
    params["classifier"] = {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}
    for i in range(num_blocks):
        block = {}
        for ours, theirs in BLOCK_NAMES.items():
            conv, norm = (f"_blocks.{i}.{name}" for name in theirs)
            if f"{conv}.weight" not in tensors:
                continue
            layer = fold_batch_norm(tensors, conv, norm)
            layer["kernel"] = (
                layer["kernel"][:, :, 0] if ours == "depthwise" else layer["kernel"][0, 0]
            )
            block[ours] = layer
        params[f"block_{i}"] = block
    return params


def load_efficientnet(
    path: str | pathlib.Path, matmul_dtype: DTypeLike = jnp.float32
) -> tuple[EfficientNet, dict[str, dict], int]:
    """Reads an EfficientNet-Lite checkpoint in the layout of the `efficientnet_lite_pytorch`
    package.

    Args:
      path: a `.pth` file; which of Lite0 to Lite4 it is follows from its shapes.
      matmul_dtype: see `EfficientNet`.

    Returns:
      The model, its parameters, and its image size in pixels.

    Raises:
      CheckpointError: the file is not an EfficientNet-Lite checkpoint.
    """
    tensors = CheckedTensors(arrays_by_name(read_torch(path), str(path)), str(path))
    if "_conv_head.weight" not in tensors or "_fc.weight" not in tensors:
        raise CheckpointError(
            f"{path} is not an EfficientNet-Lite checkpoint: it has no _conv_head.weight"
        )
    with fitting_together(str(path), "an EfficientNet-Lite"):
        num_blocks = 1 + max(
            int(name.split(".")[1]) for name in tensors if name.startswith("_blocks.")
        )
        head_input = tensors["_conv_head.weight"].shape[1]
        for width, depth, image_size in VARIANTS.values():
            blocks = block_table(width, depth)
            if (len(blocks), blocks[-1][-1]) == (num_blocks, head_input):
                model = EfficientNet(width, depth, tensors["_fc.weight"].shape[0], matmul_dtype)
                params = convert_checkpoint(tensors, num_blocks)
                tensors.refuse_unread((r".*\.num_batches_tracked",))  # B0 has more: its gates
                return model, params, image_size
    raise CheckpointError(
        f"{path}: no EfficientNet-Lite has {num_blocks} blocks and {head_input} final channels"
    )
