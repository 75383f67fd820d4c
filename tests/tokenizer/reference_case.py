"""The seeded golden case: weights regenerated from a seed, numbers produced by the published PyTorch code (float32, CPU)."""

import functools
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
_KINDS = {
    "fan_in": lambda r: r * np.prod(r.shape[1:]) ** -0.5,
    "bias": lambda r: 0.05 * r,
    "scale": lambda r: 1 + 0.1 * r,
    "vector": lambda r: 0.1 * r,
    "mean": lambda r: 0.1 * r,
    "columns": lambda r: r * r.shape[0] ** -0.5,
    "variance": lambda r: np.abs(r) + 0.5,
    "unit_rows": lambda r: r / np.linalg.norm(r, axis=-1, keepdims=True),
}
_VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@functools.cache
def expected() -> dict[str, np.ndarray]:
    """What the published code computed."""
    with np.load(FOLDER / "v2l_reference_seeded.npz") as archive:
        return dict(archive)


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """The checkpoint's arrays by their published names, PyTorch layouts."""
    case = expected()
    random = np.random.RandomState(2024)
    weights = {}
    for name, shape, kind in zip(case["weight_names"], case["weight_shapes"], case["weight_kinds"]):
        values = random.randn(*map(int, shape.split())).astype("float32")
        weights[str(name)] = np.asarray(_KINDS[str(kind)](values), "float32")
    return weights


@functools.cache
def lpips_params() -> dict:
    """VGG16 with seeded weights under the published LPIPS heads."""
    from v2l_jax.towers.vgg import lpips_params_from_torch

    random = np.random.RandomState(1234)
    vgg = {}
    for index, (width_in, width_out) in zip(_VGG_INDICES, zip(_VGG_WIDTHS, _VGG_WIDTHS[1:])):
        kernel = random.randn(width_out, width_in, 3, 3) * np.sqrt(2 / (9 * width_in))
        vgg[f"features.{index}.weight"] = kernel.astype("float32")
        vgg[f"features.{index}.bias"] = (random.randn(width_out) * 0.05).astype("float32")
    with np.load(FOLDER / "lpips_vgg_heads.npz") as heads:
        return lpips_params_from_torch(vgg, dict(heads))


def nhwc(name: str) -> np.ndarray:
    """An NCHW array of the case as NHWC."""
    return np.ascontiguousarray(expected()[name].transpose(0, 2, 3, 1))
