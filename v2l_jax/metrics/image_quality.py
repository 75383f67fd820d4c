"""PSNR, SSIM and a perceptual distance of reconstructions, an image at a time."""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.jit
def image_quality(
    images: Float[Array | np.ndarray, "batch height width 3"],
    reconstructions: Float[Array | np.ndarray, "batch height width 3"],
    lpips: Callable | None = None,
) -> dict[str, Float[Array, "batch"]]:
    """The metrics of each pair by their names in results: "psnr", "ssim" and, where given, "lpips".

    Args:
      images: in [-1, 1].
      reconstructions: in [-1, 1]; values outside are clipped for PSNR and SSIM.
      lpips: `(images, reconstructions) -> [batch]`, a `jax.tree_util.Partial` that holds its
        weights (`towers.vgg.lpips_with`); None leaves this metric out.
    """
    scores = {"psnr": psnr(images, reconstructions), "ssim": ssim(images, reconstructions)}
    return scores if lpips is None else scores | {"lpips": lpips(images, reconstructions)}


@jax.jit
def psnr(
    images: Float[Array | np.ndarray, "batch height width channel"],
    reconstructions: Float[Array | np.ndarray, "batch height width channel"],
) -> Float[Array, "batch"]:
    """Peak signal-to-noise ratio of each pair.

    Args:
      images: in [-1, 1].
      reconstructions: in [-1, 1]; values outside are clipped, as they are when shown.

    Returns:
      10 log10(1 / MSE) in dB, the MSE taken on [0, 1]; infinite for identical images.
    """
    return dm_pix.psnr(_unit(images), _unit(reconstructions))


@jax.jit
def ssim(
    images: Float[Array | np.ndarray, "batch height width channel"],
    reconstructions: Float[Array | np.ndarray, "batch height width channel"],
) -> Float[Array, "batch"]:
    """Structural similarity of each pair (Wang et al. 2004): 11×11 Gaussian window, sigma 1.5, mean
    over channels.

    Args:
      images: in [-1, 1], both sides at least 11 pixels.
      reconstructions: in [-1, 1]; values outside are clipped.

    Returns:
      At most 1, reached by identical images.
    """
    return dm_pix.ssim(_unit(images), _unit(reconstructions))


def _unit(images: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.clip((jnp.asarray(images, jnp.float32) + 1) / 2, 0, 1)
