"""The losses of tokenizer training (Zhu et al. 2024, section 3.3; adaptive weight from Esser et al.
2021, equation 7).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How much each term of the images counts, and when the adversarial game starts; the
    tokenizer's own losses have weights there.

    Attributes:
      perceptual: weight of LPIPS.
      pixels: weight of the mean absolute error.
      adversarial: factor on the adaptive weight of the generator's loss.
      disc_start: the GAN terms and the discriminator's training are off until the step counter
        exceeds this.
      disc_warmup: so many steps earlier the discriminator trains already, on reconstructions that
        it does not influence yet.
    """

    perceptual: float = 0.1
    adversarial: float = 0.75
    disc_start: int = 10_000
    disc_warmup: int = 0
    pixels: float = 1.0


def reconstruction_loss(
    image: Float[Array, "batch height width 3"],
    reconstruction: Float[Array, "batch height width 3"],
) -> Float[Array, ""]:
    """Mean absolute error, in the unit of the images ([-1, 1]), float32."""
    return jnp.mean(jnp.abs(image.astype(jnp.float32) - reconstruction.astype(jnp.float32)))


def generator_loss(fake_logits: Float[Array, "batch height width 1"]) -> Float[Array, ""]:
    """Minus the mean score that the discriminator gives to reconstructions."""
    return -jnp.mean(fake_logits.astype(jnp.float32))


def discriminator_loss(
    real_logits: Float[Array, "batch height width 1"],
    fake_logits: Float[Array, "batch height width 1"],
) -> Float[Array, ""]:
    """Half the sum of the hinge losses on real images and on reconstructions."""
    real = jnp.mean(jax.nn.relu(1.0 - real_logits.astype(jnp.float32)))
    fake = jnp.mean(jax.nn.relu(1.0 + fake_logits.astype(jnp.float32)))
    return 0.5 * (real + fake)


def adaptive_weight(
    image_loss_gradient: Float[Array, "..."], generator_loss_gradient: Float[Array, "..."]
) -> Float[Array, ""]:
    """Balances the generator's loss against the image losses: ‖∇ image‖ / (‖∇ generator‖ + 1e-4),
    in [0, 1e4].

    Args:
      image_loss_gradient: of reconstruction + weighted perceptual loss, with respect to the
        decoder's last kernel.
      generator_loss_gradient: of the generator's loss, with respect to the same kernel.
    """
    ratio = jnp.linalg.norm(image_loss_gradient.ravel()) / (
        jnp.linalg.norm(generator_loss_gradient.ravel()) + 1e-4
    )
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))
