"""Patch features of frozen vision transformers: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al.
2021), DINOv2 (Oquab et al. 2023), also with registers (Darcet et al. 2023), and the image sides of
CLIP and SigLIP.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from v2l_jax.errors import ConfigError, DataError
from v2l_jax.ops.matmul import dot_general_in
from v2l_jax.towers.position_interpolation import resize_grid
from v2l_jax.towers.transformer import TransformerConfig, blocks, first_blocks, layer_norm


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes of a vision transformer.

    Attributes:
      transformer: its blocks. Biases and LayerScale that an architecture lacks are zero and one;
        LayerScale is multiplied into the matrices before it.
      patch_size: side of a patch in pixels.
      image_size: side of the square images that it was trained on.
      class_tokens: 1; 2 in DeiT, whose second one is for distillation; 0 in SigLIP.
      registers: further tokens of DINOv2 with registers.
      norm_pre: whether a LayerNorm stands before the blocks, as in CLIP.
      antialias: whether positions are filtered where their grid shrinks, as with registers.
    """

    transformer: TransformerConfig
    patch_size: int
    image_size: int
    class_tokens: int
    registers: int = 0
    norm_pre: bool = False
    antialias: bool = False


class Vit(nn.Module):
    """A vision transformer without a head.

    Attributes:
      config: sizes; `config.transformer.layers` blocks are computed.
      norm: whether the final LayerNorm follows.
      matmul_dtype: type that matrix products round their operands to.
    """

    config: VitConfig
    norm: bool = True
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch class dim"], Float[Array, "batch rows columns dim"]]:
        """Encodes normalised images whose sides are multiples of the patch.

        Returns:
          The class tokens, and the patches; registers are left out.
        """
        c, t = self.config, self.config.transformer
        x = _cut(images, c.patch_size)
        batch, rows, columns, _ = x.shape
        dot = dot_general_in(self.matmul_dtype)
        x = nn.Dense(t.width, dot_general=dot, name="patch_embedding")(x)
        x = x.reshape(batch, rows * columns, t.width) + self._positions((rows, columns))
        normal = nn.initializers.normal(0.02)
        before = []
        for name, count in (("class_tokens", c.class_tokens), ("registers", c.registers)):
            if count:
                tokens = self.param(name, normal, (count, t.width))
                before.append(jnp.broadcast_to(tokens, (batch, count, t.width)))
        x = jnp.concatenate([*before, x], axis=1)
        if c.norm_pre:
            x = layer_norm(t, "norm_pre")(x)
        if t.layers:
            x, _ = blocks(t, self.matmul_dtype)(x, None)
        if self.norm:
            x = layer_norm(t, "norm_post")(x)
        patches = x[:, c.class_tokens + c.registers :].reshape(batch, rows, columns, t.width)
        return x[:, : c.class_tokens], patches

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "cells width"]:
        """Those of the patches; class tokens hold theirs already."""
        c = self.config
        side = c.image_size // c.patch_size
        normal = nn.initializers.normal(0.02)
        own = self.param("positions", normal, (side**2, c.transformer.width))
        if grid == (side, side):
            return own
        matrix = resize_grid(np.eye(side**2, dtype=np.float32), grid, c.antialias)
        return jnp.dot(jnp.asarray(matrix), own, precision=jax.lax.Precision.HIGHEST)


def _cut(images: Float[Array, "batch h w 3"], side: int) -> Float[Array, "batch rows columns n"]:
    """Square patches, each flattened as rows, columns, channels."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // side, width // side, -1)


@dataclasses.dataclass(frozen=True)
class PatchTower:
    """A frozen network that gives a vector for each patch of an image.

    Attributes:
      name: which weights, for reports and for matching a vocabulary to the tower that made it.
      config: sizes.
      params: of `Vit`, on the device.
      mean, std: what pixels in [0, 1] are normalised with, a channel at a time.
      matmul_dtype: type that matrix products round their operands to.
    """

    name: str
    config: VitConfig
    params: Any
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    matmul_dtype: DTypeLike = jnp.float32

    def layer_number(self, layer: int) -> int:
        """How many blocks stand before the features: `layer` itself, or counted from the end: -1 is
        after the last block, -2 one block earlier (Hugging Face's `hidden_states[layer]`).

        Raises:
          ConfigError: the tower has no such layer.
        """
        count = self.config.transformer.layers
        if not -count - 1 <= layer <= count:
            raise ConfigError(
                f"{self.name} has {count} blocks, so a layer is {-count - 1} to {count}, not "
                f"{layer}"
            )
        return layer if layer >= 0 else count + 1 + layer

    def check_size(self, height: int, width: int) -> None:
        """Raises DataError unless images of this size are whole patches, at least one."""
        patch = self.config.patch_size
        if min(height, width) < patch or height % patch or width % patch:
            raise DataError(
                f"images of {height}×{width} pixels are not whole patches of {self.name}, whose "
                f"side is {patch}; choose multiples of it"
            )

    def features(
        self, params: Any, images: Float[Array, "batch height width 3"], layer: int, norm: bool
    ) -> tuple[Float[Array, "batch class dim"], Float[Array, "batch rows columns dim"]]:
        """Class tokens and patch features, float32; pure, to be jitted by the caller.

        Args:
          params: `self.params`.
          images: normalised with `mean` and `std`; sides are multiples of the patch.
          layer: as for `layer_number`.
          norm: whether the final LayerNorm follows.
        """
        count = self.layer_number(layer)
        self.check_size(*images.shape[1:3])
        shorter = dataclasses.replace(self.config.transformer, layers=count)
        model = Vit(dataclasses.replace(self.config, transformer=shorter), norm, self.matmul_dtype)
        return model.apply({"params": first_blocks(params, count)}, images)


def load_vit(path: str | pathlib.Path, matmul_dtype: DTypeLike = jnp.float32) -> PatchTower:
    """Reads a vision transformer.

    Args:
      path: a Hugging Face directory (config.json beside safetensors) of a ViT, DeiT, DINOv2, DINOv2
        with registers, CLIP or SigLIP, or an .onnx file of a DINOv2.
      matmul_dtype: type that matrix products round their operands to.

    Raises:
      CheckpointError: another kind of model, or tensors that are missing, misshapen or unknown.
    """
    from v2l_jax.towers.vit_weights import read_vit

    found = read_vit(pathlib.Path(path))
    return PatchTower(
        found.name, found.config, jax.device_put(found.params), found.mean, found.std, matmul_dtype
    )


@functools.lru_cache(maxsize=1)
def cached_vit(path: pathlib.Path, matmul_dtype: DTypeLike) -> PatchTower:
    """`load_vit`, kept while the next call asks for the same."""
    return load_vit(path, matmul_dtype)
