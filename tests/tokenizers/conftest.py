"""The seeded golden case: weights drawn from a seed, numbers that the published PyTorch code made
(float32, CPU).
"""

import dataclasses
import pathlib

import numpy as np
import pytest

_FOLDER = pathlib.Path(__file__).parents[1] / "golden"
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


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of the published code.

    Attributes:
      expected: what it computed, by name.
      arrays: its checkpoint's arrays, published names and PyTorch layouts.
    """

    expected: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]

    def nhwc(self, name: str) -> np.ndarray:
        """An NCHW array of `expected` as NHWC."""
        return np.ascontiguousarray(self.expected[name].transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def case() -> Case:
    """The case that is small enough to live in the repository."""
    with np.load(_FOLDER / "v2l_reference_seeded.npz") as archive:
        expected = dict(archive)
    random = np.random.RandomState(2024)
    arrays = {}
    for name, shape, kind in zip(
        expected["weight_names"], expected["weight_shapes"], expected["weight_kinds"]
    ):
        values = random.randn(*map(int, shape.split())).astype("float32")
        arrays[str(name)] = np.asarray(_KINDS[str(kind)](values), "float32")
    return Case(expected, arrays)


@pytest.fixture(scope="session")
def lpips_params() -> dict:
    """The golden cases' LPIPS: VGG16 with seeded weights under the published heads."""
    from v2l_jax.towers.vgg import lpips_params_from_torch

    random = np.random.RandomState(1234)
    vgg = {}
    for index, (width_in, width_out) in zip(_VGG_INDICES, zip(_VGG_WIDTHS, _VGG_WIDTHS[1:])):
        kernel = random.randn(width_out, width_in, 3, 3) * np.sqrt(2 / (9 * width_in))
        vgg[f"features.{index}.weight"] = kernel.astype("float32")
        vgg[f"features.{index}.bias"] = (random.randn(width_out) * 0.05).astype("float32")
    with np.load(_FOLDER / "lpips_vgg_heads.npz") as heads:
        return lpips_params_from_torch(vgg, dict(heads))
