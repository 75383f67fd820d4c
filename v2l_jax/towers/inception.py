"""InceptionV3 (Szegedy et al. 2016) as FID and IS are measured with: TensorFlow's 2015 weights and
its old resize.

It differs from torchvision's in its average pools, which leave padding out of the mean, in a
maximum in the last block where the others average, and in its weights. Layer names are
torchvision's. Batch norm is folded into the convolutions at loading.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from v2l_jax.errors import AssetError
from v2l_jax.formats.checked_tensors import fitting_together
from v2l_jax.formats.torch_files import read_torch
from v2l_jax.ops.batches import in_batches
from v2l_jax.parallel.mesh import replicate

IMAGE_SIZE = 299
_BATCH_NORM_EPSILON = 1e-3

# Where FID's TorchScript archives, which kept TensorFlow's names, hold a block's layers: prefixes
# of numbered chains.
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_BLOCKS = (
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *(f"Mixed_6{x}" for x in "abcde"),
    *(f"Mixed_7{x}" for x in "abc"),
)
_TENSORFLOW_NAMES = {
    "5": {
        "branch1x1": "conv",
        "branch5x5": "tower.2",
        "branch3x3dbl": "tower_1.3",
        "branch_pool": "tower_2.conv",
    },
    "6a": {"branch3x3": "conv", "branch3x3dbl": "tower.3"},
    "6": {
        "branch1x1": "conv",
        "branch7x7": "tower.3",
        "branch7x7dbl": "tower_1.5",
        "branch_pool": "tower_2.conv",
    },
    "7a": {"branch3x3": "tower.2", "branch7x7x3": "tower_1.4"},
    "7": {
        "branch1x1": "conv",
        "branch3x3_1": "tower_conv",
        "branch3x3_2a": "tower_mixed_conv",
        "branch3x3_2b": "tower_mixed_conv_1",
        "branch3x3dbl_1": "tower_1_conv",
        "branch3x3dbl_2": "tower_1_conv_1",
        "branch3x3dbl_3a": "tower_1_mixed_conv",
        "branch3x3dbl_3b": "tower_1_mixed_conv_1",
        "branch_pool": "tower_2_conv",
    },
}


class InceptionOutput(NamedTuple):
    """The outputs that FID and the Inception Score are computed from.

    Attributes:
      features: pool3, not negative.
      logits: of TensorFlow's 1,008 classes, without the bias, as IS takes them (Salimans et al.
        2016, code); None from weights that end at pool3.
    """

    features: Float[Array, "batch 2048"]
    logits: Float[Array, "batch 1008"] | None


class _Conv(nn.Module):
    """Convolution with folded batch norm, then ReLU."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        precision = jax.lax.Precision.HIGHEST  # A metric must not depend on the accelerator.
        strides = (self.stride, self.stride)
        return nn.relu(
            nn.Conv(
                self.channels, self.kernel, strides, self.padding, precision=precision, name="conv"
            )(x)
        )


class _Block(nn.Module):
    """A block of the network: branches side by side, their channels concatenated."""

    def chain(
        self, x: Array, name: str, *layers: tuple[int, tuple[int, int]], last_stride: int = 1
    ) -> Array:
        """Numbered convolutions in a row; with a stride, the last one is not padded."""
        for i, (channels, kernel) in enumerate(layers, 1):
            stride = last_stride if i == len(layers) else 1
            x = _Conv(
                channels, kernel, stride, "SAME" if stride == 1 else "VALID", name=f"{name}_{i}"
            )(x)
        return x


class _Block5(_Block):
    pool_channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b 35 35 _"]) -> Float[Array, "b 35 35 _"]:
        a = _Conv(64, name="branch1x1")(x)
        b = self.chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5)))
        c = self.chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        return jnp.concatenate(
            [a, b, c, _Conv(self.pool_channels, name="branch_pool")(_average(x))], axis=-1
        )


class _Block6a(_Block):
    @nn.compact
    def __call__(self, x: Float[Array, "b 35 35 _"]) -> Float[Array, "b 17 17 _"]:
        a = _Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        b = self.chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), last_stride=2)
        return jnp.concatenate([a, b, _halve(x)], axis=-1)


class _Block6(_Block):
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b 17 17 _"]) -> Float[Array, "b 17 17 _"]:
        c, row, column = self.channels, (1, 7), (7, 1)
        parts = [
            _Conv(192, name="branch1x1")(x),
            self.chain(x, "branch7x7", (c, (1, 1)), (c, row), (192, column)),
            self.chain(
                x, "branch7x7dbl", (c, (1, 1)), (c, column), (c, row), (c, column), (192, row)
            ),
            _Conv(192, name="branch_pool")(_average(x)),
        ]
        return jnp.concatenate(parts, axis=-1)


class _Block7a(_Block):
    @nn.compact
    def __call__(self, x: Float[Array, "b 17 17 _"]) -> Float[Array, "b 8 8 _"]:
        a = self.chain(x, "branch3x3", (192, (1, 1)), (320, (3, 3)), last_stride=2)
        b = self.chain(
            x,
            "branch7x7x3",
            (192, (1, 1)),
            (192, (1, 7)),
            (192, (7, 1)),
            (192, (3, 3)),
            last_stride=2,
        )
        return jnp.concatenate([a, b, _halve(x)], axis=-1)


class _Block7(_Block):
    maximum: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b 8 8 _"]) -> Float[Array, "b 8 8 _"]:
        a = self.chain(x, "branch3x3", (384, (1, 1)))
        b = self.chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.maximum else _average(x)
        parts = [
            _Conv(320, name="branch1x1")(x),
            _Conv(384, (1, 3), name="branch3x3_2a")(a),
            _Conv(384, (3, 1), name="branch3x3_2b")(a),
            _Conv(384, (1, 3), name="branch3x3dbl_3a")(b),
            _Conv(384, (3, 1), name="branch3x3dbl_3b")(b),
            _Conv(192, name="branch_pool")(pooled),
        ]
        return jnp.concatenate(parts, axis=-1)


class InceptionV3(nn.Module):
    """The network on resized images in [-1, 1); pool3 features, and logits if `num_classes` is not
    0.
    """

    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "batch 299 299 3"]) -> InceptionOutput:
        layers = (
            (32, 3, 2, "VALID"),
            (32, 3, 1, "VALID"),
            (64, 3, 1, "SAME"),
            (80, 1, 1, "VALID"),
            (192, 3, 1, "VALID"),
        )
        for name, (channels, size, stride, padding) in zip(_STEM, layers):
            x = _Conv(channels, (size, size), stride, padding, name=name)(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = _halve(x)
        blocks = (
            *(
                _Block5(pool_channels, name=name)
                for name, pool_channels in zip(_BLOCKS[:3], (32, 64, 64))
            ),
            _Block6a(name="Mixed_6a"),
            *(
                _Block6(channels, name=name)
                for name, channels in zip(_BLOCKS[4:8], (128, 160, 160, 192))
            ),
            _Block7a(name="Mixed_7a"),
            *(_Block7(maximum, name=name) for name, maximum in zip(_BLOCKS[9:], (False, True))),
        )
        for block in blocks:
            x = block(x)
        features = x.mean(axis=(1, 2))
        if not self.num_classes:
            return InceptionOutput(features, None)
        fc = nn.Dense(
            self.num_classes, use_bias=False, precision=jax.lax.Precision.HIGHEST, name="fc"
        )
        return InceptionOutput(features, fc(features))


def _average(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halve(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


@jax.jit
def inception(
    params: Any, images: UInt8[Array | np.ndarray, "batch height width 3"]
) -> InceptionOutput:
    """Features and logits of images as they are stored: eight bits a channel, RGB, any size.

    Args:
      params: from `load_inception`.
      images: 0 to 255; `data.transforms.to_uint8` makes them of images in [-1, 1].
    """
    x = resize_bilinear(jnp.asarray(images, jnp.float32), IMAGE_SIZE)
    model = InceptionV3(params["fc"]["kernel"].shape[-1] if "fc" in params else 0)
    return model.apply({"params": params}, (x - 128) / 128)


def inception_outputs(
    params: Any,
    images: UInt8[np.ndarray, "images height width 3"],
    mesh: Mesh | None = None,
    batch_size: int = 32,
    description: str = "Inception features",
) -> InceptionOutput:
    """Features and logits of all images, computed in batches of one shape.

    Args:
      params: from `load_inception`.
      images: 0 to 255; `data.transforms.to_uint8` makes them of images in [-1, 1].
      mesh: batches are split over its batch axes.
      batch_size: images at a time; over a mesh, rounded up to a multiple of its devices.
      description: for the progress bar.

    Returns:
      numpy arrays: features [images, 2048] and, from weights that have them, logits [images, 1008].
    """
    params = params if mesh is None else replicate(params, mesh)
    outputs = functools.partial(inception, params)
    return in_batches(outputs, images, size=batch_size, mesh=mesh, description=description)


def resize_bilinear(
    images: Float[Array, "batch height width 3"], size: int
) -> Float[Array, "batch {size} {size} 3"]:
    """TensorFlow 1's `resize_bilinear`: output pixel i samples at i · side / size (corner-based),
    without antialiasing.
    """
    rows, columns = (_interpolation(side, size) for side in images.shape[1:3])
    return jnp.einsum(
        "ih,jw,bhwc->bijc", rows, columns, images, precision=jax.lax.Precision.HIGHEST
    )


def _interpolation(side: int, size: int) -> Float[np.ndarray, "size side"]:
    at = np.arange(size) * (side / size)
    low = np.floor(at).astype(int)
    matrix = np.zeros((size, side), np.float32)
    np.add.at(matrix, (np.arange(size), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(size), np.minimum(low + 1, side - 1)), at - low)
    return matrix


def load_inception(path: str | pathlib.Path) -> Any:
    """Reads the weights that FID is measured with.

    Args:
      path: a TorchScript archive with TensorFlow's layer names (the asset inception-v3-fid, which
        ends at pool3), or the `pt_inception-2015-12-05-….pth` of pytorch-fid and torch-fidelity,
        which has the classifier that IS needs too.

    Raises:
      AssetError: the file holds something else.
    """
    tree = read_torch(path)
    with fitting_together(str(path), "FID's InceptionV3", AssetError):
        params = (
            _from_torchvision_names(tree)
            if "fc.weight" in tree
            else _from_tensorflow_names(_module(tree, "net.layers"))
        )
    image = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    expected = jax.eval_shape(
        InceptionV3(1008 if "fc" in params else 0).init, jax.random.key(0), image
    )["params"]
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
        raise AssetError(
            f"{path}: array shapes are not those of FID's InceptionV3; torchvision's own weights "
            "do not fit it"
        )
    return params


def _from_torchvision_names(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {"fc": {"kernel": np.ascontiguousarray(tensors["fc.weight"].T)}}
    for name in (
        name.removesuffix(".conv.weight") for name in tensors if name.endswith(".conv.weight")
    ):
        if name.startswith("AuxLogits"):
            continue
        norm = [
            tensors[f"{name}.bn.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        _put(params, name, _fold(tensors[f"{name}.conv.weight"], *norm))
    return params


def _from_tensorflow_names(layers: Mapping[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for i, name in enumerate(_STEM):
        _put(params, name, _fold_module(layers[_numbered("conv", i)]))
    for i, block in enumerate(_BLOCKS):
        module = layers[_numbered("mixed", i)]
        names = _TENSORFLOW_NAMES.get(block[6:]) or _TENSORFLOW_NAMES[block[6]]
        for ours, theirs in names.items():
            chain, _, length = theirs.partition(".")
            if not length.isdigit():
                _put(params, f"{block}.{ours}", _fold_module(_module(module, theirs)))
                continue
            for j in range(int(length)):
                _put(
                    params,
                    f"{block}.{ours}_{j + 1}",
                    _fold_module(module[chain][_numbered("conv", j)]),
                )
    return params


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _module(tree: Mapping[str, Any], dotted: str) -> Mapping[str, Any]:
    for part in dotted.split("."):
        tree = tree[part]
    return tree


def _fold_module(module: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    return _fold(module["weight"], np.float32(1), module["beta"], module["mean"], module["var"])


def _fold(weight, scale, shift, mean, variance) -> dict[str, dict[str, np.ndarray]]:
    factor = scale / np.sqrt(variance + np.float32(_BATCH_NORM_EPSILON))
    kernel = weight.transpose(2, 3, 1, 0) * factor
    return {"conv": {"kernel": np.ascontiguousarray(kernel), "bias": shift - mean * factor}}


def _put(params: dict[str, Any], dotted: str, layer: dict[str, Any]) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        params = params.setdefault(part, {})
    params[last] = layer
