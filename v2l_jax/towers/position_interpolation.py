"""A square grid of position embeddings, brought to another grid as PyTorch resamples images."""

import numpy as np
from jaxtyping import Float


def resize_grid(
    positions: Float[np.ndarray, "places width"], grid: tuple[int, int], antialias: bool
) -> Float[np.ndarray, "cells width"]:
    """Position embeddings of a square grid in raster order, on a grid of other sides.

    Bicubic at half-pixel centres, as `torch.nn.functional.interpolate` with `size=` (DINOv2, ViT,
    DeiT and SigLIP in transformers); with `antialias` as for DINOv2 with registers.

    Args:
      positions: of the square grid.
      grid: rows and columns wanted.
      antialias: widen the filter where the grid shrinks.
    """
    side = round(len(positions) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions.reshape(side, side, -1)
    down, across = (_bicubic(side, size, antialias) for size in grid)
    rows = np.tensordot(down, square, axes=1)
    resized = np.tensordot(across, rows.swapaxes(0, 1), axes=1).swapaxes(0, 1)
    return resized.reshape(grid[0] * grid[1], -1).astype(np.float32)


def _bicubic(length: int, size: int, antialias: bool) -> Float[np.ndarray, "size length"]:
    """The matrix that resamples `length` values to `size`."""
    matrix, scale = np.zeros((size, length)), length / size
    for i in range(size):
        if antialias:
            stretch, centre = max(scale, 1.0), scale * (i + 0.5)
            first = max(int(centre - 2 * stretch + 0.5), 0)
            last = min(int(centre + 2 * stretch + 0.5), length)
            places = np.arange(first, last)
            weights = _cubic((places - centre + 0.5) / stretch, -0.5)
            matrix[i, places] = weights / weights.sum()
        else:
            centre = scale * (i + 0.5) - 0.5
            places = np.floor(centre) + np.arange(-1, 3)
            inside = np.clip(places, 0, length - 1).astype(int)
            np.add.at(matrix[i], inside, _cubic(places - centre, -0.75))
    return matrix


def _cubic(x: Float[np.ndarray, " n"], a: float) -> Float[np.ndarray, " n"]:
    """Keys' cubic convolution kernel with the parameter `a` (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
