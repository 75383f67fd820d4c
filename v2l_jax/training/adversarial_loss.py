"""The gradients of a training step: the tokenizer's, and those of the discriminator that it plays
against.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.losses import (
    LossWeights,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_loss,
)
from v2l_jax.training.remat import rematerialize
from v2l_jax.training.state import TrainState

if TYPE_CHECKING:
    from v2l_jax.tokenizers.base import Batch, TokenStreams, TrainOutput, VisualTokenizer

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """The two networks that train against each other, and what they are scored by; see
    `make_train_step`.

    Attributes:
      remat: which of the tokenizer's activations are kept for the backward pass; see
        `training.remat`.
    """

    tokenizer: "VisualTokenizer"
    discriminator: PatchDiscriminator
    lpips: Callable | None
    weights: LossWeights
    perceptual_images: int | None = None
    remat: str = "none"

    def forward(
        self, state: TrainState, params: Any, batch: "Batch", frozen: dict[str, Any]
    ) -> "TrainOutput":
        """The tokenizer's training pass with these parameters, at the state's step."""
        variables = state.variables(params, frozen)
        key = jax.random.fold_in(state.rng, state.step)
        return self.tokenizer.train_forward(variables, batch, step=state.step, key=key)

    def tokenizer_gradients(
        self, state: TrainState, batch: "Batch", frozen: dict[str, Any]
    ) -> tuple[Any, Any, "TokenStreams", Metrics]:
        """Gradients of the tokenizer's loss.

        The network is differentiated once. The image losses and the generator's loss are first
        differentiated as far as the reconstruction; these two gradients give the adaptive weight,
        through the last convolution alone, and their weighted sum is what goes back through the
        network.

        Returns:
          Gradients, the discriminator's running statistics after it scored the reconstruction,
          the tokens, and metrics.
        """
        weights = self.tokenizer.loss_weights

        def forward(params: Any) -> tuple[Any, "TrainOutput"]:
            result = self.forward(state, params, batch, frozen)
            return (result.image, {name: result.losses[name] for name in weights}), result

        (fake, losses), pull_back, result = jax.vjp(
            rematerialize(forward, self.remat), state.params, has_aux=True
        )
        image = batch["image"]
        (image_loss, metrics), image_gradient = self._image_loss_and_gradient(fake, image, frozen)

        def play() -> tuple[jax.Array, jax.Array, jax.Array, Any]:
            loss, stats, gradient = self._generator_loss_and_gradient(state, fake)
            at_kernel = self._last_kernel_gradient(state, result.last_features, frozen)
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
            (
                image_gradient + adversarial_gradient,
                {name: jnp.float32(value) for name, value in weights.items()},
            )
        )
        for name, value in weights.items():
            image_loss += value * losses[name]
        metrics |= losses | {
            "loss": image_loss + weight * adversarial_loss,
            "generator_loss": adversarial_loss,
            "adaptive_weight": weight,
        }
        return grads, disc_stats, result.tokens, metrics

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
            weighted = self.weights.pixels * reconstruction + self.weights.perceptual * perceptual
            return weighted, metrics

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
        self, state: TrainState, last_features: jax.Array, frozen: dict[str, Any]
    ) -> Callable:
        """Returns the map from a gradient at the reconstruction to one at the last kernel."""
        path = self.tokenizer.last_kernel
        kernel = state.params
        for name in path:
            kernel = kernel[name]

        def to_image(kernel: jax.Array) -> jax.Array:
            params = _with_leaf(state.params, path, kernel)
            return self.tokenizer.to_image(state.variables(params, frozen), last_features)

        _, pull_back = jax.vjp(to_image, kernel)
        return lambda gradient: pull_back(gradient)[0]


def _with_leaf(tree: Mapping[str, Any], path: tuple[str, ...], leaf: jax.Array) -> dict[str, Any]:
    """The tree with another leaf at a path."""
    name, *rest = path
    return {**tree, name: _with_leaf(tree[name], tuple(rest), leaf) if rest else leaf}
