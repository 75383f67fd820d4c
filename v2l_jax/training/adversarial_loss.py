"""The gradients of a training step: the tokenizer's, and those of the discriminator that it plays
against.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from v2l_jax.tokenizers.autoencoder import BLOCK_OUTPUT
from v2l_jax.tokenizers.v2l import Reconstruction, V2LTokenizer
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.losses import (
    LossWeights,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_loss,
)
from v2l_jax.training.state import TrainState

Metrics = dict[str, Any]

REMAT_POLICIES = ("none", "blocks", "all")


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """The two networks that train against each other, and what they are scored by; see
    `make_train_step`.

    Attributes:
      remat: which of the tokenizer's activations are kept for the backward pass: "none" recomputes
        none (all are kept), "blocks" keeps what goes from block to block, "all" recomputes
        everything.
    """

    model: V2LTokenizer
    discriminator: PatchDiscriminator
    lpips: Callable | None
    weights: LossWeights
    perceptual_images: int | None = None
    remat: str = "none"

    def reconstruct(
        self,
        params: Any,
        image: Float[Array, "b h w 3"],
        global_ids: Int[Array, "b k"],
        frozen: dict[str, Any],
    ) -> Reconstruction:
        """The tokenizer's forward pass."""
        variables = {"params": params, "frozen": frozen["model"]}
        return self.model.apply(variables, image, global_ids, method="reconstruct")

    def tokenizer_gradients(
        self,
        state: TrainState,
        image: Float[Array, "b h w 3"],
        global_ids: Int[Array, "b k"],
        frozen: dict[str, Any],
    ) -> tuple[Any, Any, Float[Array, "b h w 3"], Metrics]:
        """Gradients of the tokenizer's loss.

        The network is differentiated once. The image losses and the generator's loss are first
        differentiated as far as the reconstruction; these two gradients give the adaptive weight,
        through the last convolution alone, and their weighted sum is what goes back through the
        network.

        Returns:
          Gradients, the discriminator's running statistics after it scored the reconstruction,
          that, and metrics; of these "words_used" is not a count but says 1 or 0 for each local
          word.
        """
        weights = {"quantizer_loss": self.weights.quantizer}
        if self.weights.entropy:
            weights["entropy_loss"] = self.weights.entropy

        def forward(params: Any) -> tuple[Any, Reconstruction]:
            result = self.reconstruct(params, image, global_ids, frozen)
            losses = {"quantizer_loss": result.quantizer_loss}
            if "entropy_loss" in weights:
                variables = {"params": params, "frozen": frozen["model"]}
                temperature = self.weights.entropy_temperature
                losses["entropy_loss"] = self.model.apply(
                    variables, result.features, temperature, method="entropy_loss"
                )
            return (result.image, losses), result

        (fake, losses), pull_back, result = jax.vjp(
            rematerialize(forward, self.remat), state.params, has_aux=True
        )
        (image_loss, metrics), image_gradient = self._image_loss_and_gradient(fake, image, frozen)

        def play() -> tuple[jax.Array, jax.Array, jax.Array, Any]:
            loss, stats, gradient = self._generator_loss_and_gradient(state, fake)
            at_kernel = self._last_kernel_gradient(state.params, result.last_features, frozen)
            weight = self.weights.adversarial * adaptive_weight(
                at_kernel(image_gradient), at_kernel(gradient)
            )
            return loss, weight, weight * gradient, stats

        def wait() -> tuple[jax.Array, jax.Array, jax.Array, Any]:
            return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(fake), state.disc_batch_stats

        playing = state.step > self.weights.disc_start
        adversarial_loss, weight, adversarial_gradient, disc_stats = jax.lax.cond(
            playing, play, wait
        )
        (grads,) = pull_back(
            (image_gradient + adversarial_gradient, jax.tree.map(jnp.float32, weights))
        )
        for name, value in weights.items():
            image_loss += value * losses[name]
        metrics |= losses | {
            "loss": image_loss + weight * adversarial_loss,
            "generator_loss": adversarial_loss,
            "adaptive_weight": weight,
            "words_used": _present(result.tokens.local_ids, self.model.num_local_words),
        }
        return grads, disc_stats, fake, metrics

    def discriminator_gradients(
        self,
        params: Any,
        batch_stats: Any,
        image: Float[Array, "b h w 3"],
        fake: Float[Array, "b h w 3"],
    ) -> tuple[Float[Array, ""], Any, Any]:
        """The discriminator's loss on images and reconstructions, its gradients, its new running
        statistics.
        """

        def loss(params: Any) -> tuple[jax.Array, Any]:
            real_logits, stats = self._score(params, batch_stats, image)
            fake_logits, stats = self._score(params, stats, fake)
            return discriminator_loss(real_logits, fake_logits), stats

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, stats

    def _score(self, params: Any, batch_stats: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = self.discriminator.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        return logits, updated["batch_stats"]

    def _image_loss_and_gradient(
        self, fake: jax.Array, image: jax.Array, frozen: dict[str, Any]
    ) -> Any:
        def loss(fake: jax.Array) -> tuple[jax.Array, Metrics]:
            reconstruction = reconstruction_loss(image, fake)
            perceptual = jnp.zeros(())
            if self.lpips is not None:
                some = slice(self.perceptual_images)
                perceptual = jnp.mean(self.lpips(frozen["lpips"], image[some], fake[some]))
            metrics = {"reconstruction_loss": reconstruction, "perceptual_loss": perceptual}
            return reconstruction + self.weights.perceptual * perceptual, metrics

        return jax.value_and_grad(loss, has_aux=True)(fake)

    def _generator_loss_and_gradient(
        self, state: TrainState, fake: jax.Array
    ) -> tuple[jax.Array, Any, jax.Array]:
        def loss(fake: jax.Array) -> tuple[jax.Array, Any]:
            logits, stats = self._score(state.disc_params, state.disc_batch_stats, fake)
            return generator_loss(logits), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(fake)
        return value, stats, gradient

    def _last_kernel_gradient(
        self, params: Any, last_features: jax.Array, frozen: dict[str, Any]
    ) -> Callable:
        """Returns the map from a gradient at the reconstruction to one at the last convolution's
        kernel.
        """

        def to_image(kernel: jax.Array) -> jax.Array:
            last = {"conv_out": params["conv_out"] | {"kernel": kernel}}
            return self.model.apply(
                {"params": last, "frozen": frozen["model"]}, last_features, method="to_image"
            )

        _, pull_back = jax.vjp(to_image, params["conv_out"]["kernel"])
        return lambda gradient: pull_back(gradient)[0]


def rematerialize(function: Callable, policy: str) -> Callable:
    """`function` as its backward pass will remember it; `policy` is one of `REMAT_POLICIES`."""
    if policy == "none":
        return function
    keep = (
        jax.checkpoint_policies.save_only_these_names(BLOCK_OUTPUT) if policy == "blocks" else None
    )
    return jax.checkpoint(function, policy=keep)


def _present(ids: jax.Array, vocabulary: int) -> jax.Array:
    return jnp.zeros(vocabulary).at[ids.ravel()].set(1.0)
