"""One jitted training step: the tokenizer's update, then the discriminator's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from v2l_jax.tokenizer.discriminator import PatchDiscriminator
from v2l_jax.tokenizer.losses import (
    LossWeights,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_loss,
)
from v2l_jax.tokenizer.projector_fit import fit_projector
from v2l_jax.tokenizer.v2l import Reconstruction, V2LTokenizer
from v2l_jax.training.state import TrainState

Batch = dict[str, Any]
Metrics = dict[str, Any]
StepFunction = Callable[[TrainState, Batch, dict[str, Any]], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class ProjectorFit:
    """Fits the projector to a batch's features (see `tokenizer.projector_fit`) every `every` steps while step < `until`."""

    every: int
    until: int

    def apply(self, model: V2LTokenizer, step: Any, params: Any, image: jax.Array, frozen_words: Any) -> Any:
        """Parameters with the projector refitted where it is due."""

        def fit() -> Any:
            features = model.apply({"params": params, "frozen": frozen_words}, image, method="encode")
            return fit_projector(frozen_words["local_words"], features.reshape(-1, features.shape[-1]))

        due = (step % self.every == 0) & (step < self.until)
        return params | {"projector": jax.lax.cond(due, fit, lambda: params["projector"])}


def make_train_step(
    model: V2LTokenizer,
    discriminator: PatchDiscriminator,
    lpips: Callable | None,
    weights: LossWeights,
    tx: optax.GradientTransformation,
    disc_tx: optax.GradientTransformation,
    *,
    k: int,
    refresh_reconstruction: bool = True,
    projector_fit: ProjectorFit | None = None,
    perceptual_images: int | None = None,
    state_sharding: Any = None,
) -> StepFunction:
    """Returns the compiled step `(state, batch, frozen) -> (state, metrics)`; the given state is donated.

    `batch`: {"image": float32 [b, h, w, 3] in [-1, 1], "semantic": float32 [b, d] image embeddings, or the tower's
    input images [b, s, s, 3]}. `frozen`: {"model": the model's "frozen" collection (local_words [v, d], global_words
    [g, d], and the tower's parameters where the step runs the tower), "lpips": LPIPS parameters (absent without LPIPS)}.
    `metrics`: float32 scalars loss, reconstruction_loss, quantizer_loss, perceptual_loss, generator_loss,
    discriminator_loss, adaptive_weight, gradient_norm, words_used (different local words in the batch). The three
    adversarial ones are 0 until the step counter exceeds `weights.disc_start`; until then the game costs nothing.

    Args:
      model: the tokenizer.
      discriminator: the discriminator.
      lpips: `(lpips_params, image, reconstruction) -> [b]`, or None to train without a perceptual loss.
      weights: loss weights and the step at which the GAN starts.
      tx: optimizer of the tokenizer; gets `step` as an extra argument.
      disc_tx: optimizer of the discriminator; gets `step` as an extra argument.
      k: global words an image gets.
      refresh_reconstruction: whether the discriminator sees the reconstruction by the just-updated tokenizer (one more
        forward pass, as the published code does) or the one that the tokenizer's own update used.
      projector_fit: when to fit the projector to the encoder's features; None never does, as in the published code.
      perceptual_images: LPIPS is the mean over this many images, the batch's first; None takes all, as the paper does.
      state_sharding: sharding of the returned state (a prefix pytree); None lets the compiler choose.
    """
    tx, disc_tx = optax.with_extra_args_support(tx), optax.with_extra_args_support(disc_tx)
    players = Players(model, discriminator, lpips, weights, perceptual_images)

    def step(state: TrainState, batch: Batch, frozen: dict[str, Any]) -> tuple[TrainState, Metrics]:
        image = batch["image"]
        global_ids = model.apply({"frozen": frozen["model"]}, batch["semantic"], k, method="global_ids")
        grads, disc_stats, reconstruction, metrics = players.tokenizer_gradients(state, image, global_ids, frozen)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        if projector_fit is not None:
            params = projector_fit.apply(model, state.step, params, image, frozen["model"])

        def train_discriminator() -> tuple[Any, Any, Any, jax.Array]:
            fake = reconstruction
            if refresh_reconstruction:
                fake = players.reconstruct(params, image, global_ids, frozen).image
            loss, grads, stats = players.discriminator_gradients(state.disc_params, disc_stats, image, fake)
            updates, disc_opt_state = disc_tx.update(grads, state.disc_opt_state, state.disc_params, step=state.step)
            return optax.apply_updates(state.disc_params, updates), stats, disc_opt_state, loss

        def wait() -> tuple[Any, Any, Any, jax.Array]:
            return state.disc_params, disc_stats, state.disc_opt_state, jnp.zeros(())

        playing = state.step > weights.disc_start
        disc_params, disc_stats, disc_opt_state, disc_loss = jax.lax.cond(playing, train_discriminator, wait)
        state = state.replace(
            step=state.step + 1,
            params=params,
            disc_params=disc_params,
            disc_batch_stats=disc_stats,
            opt_state=opt_state,
            disc_opt_state=disc_opt_state,
        )
        return state, metrics | {"discriminator_loss": disc_loss, "gradient_norm": optax.global_norm(grads)}

    return jax.jit(step, donate_argnums=0, out_shardings=(state_sharding, None))


@dataclasses.dataclass(frozen=True)
class Players:
    """The two networks that train against each other, and what they are scored by; see `make_train_step`."""

    model: V2LTokenizer
    discriminator: PatchDiscriminator
    lpips: Callable | None
    weights: LossWeights
    perceptual_images: int | None = None

    def reconstruct(
        self, params: Any, image: Float[Array, "b h w 3"], global_ids: Int[Array, "b k"], frozen: dict[str, Any]
    ) -> Reconstruction:
        """The tokenizer's forward pass."""
        variables = {"params": params, "frozen": frozen["model"]}
        return self.model.apply(variables, image, global_ids, method="reconstruct")

    def tokenizer_gradients(
        self, state: TrainState, image: Float[Array, "b h w 3"], global_ids: Int[Array, "b k"], frozen: dict[str, Any]
    ) -> tuple[Any, Any, Float[Array, "b h w 3"], Metrics]:
        """Gradients of the tokenizer's loss.

        The network is differentiated once. The image losses and the generator's loss are first differentiated as far as
        the reconstruction; these two gradients give the adaptive weight, through the last convolution alone, and their
        weighted sum is what goes back through the network.

        Returns:
          Gradients, the discriminator's running statistics after it scored the reconstruction, that, and metrics.
        """

        def forward(params: Any) -> tuple[Any, Reconstruction]:
            result = self.reconstruct(params, image, global_ids, frozen)
            return (result.image, result.quantizer_loss), result

        (fake, quantizer_loss), pull_back, result = jax.vjp(forward, state.params, has_aux=True)
        (image_loss, metrics), image_gradient = self._image_loss_and_gradient(fake, image, frozen)

        def play() -> tuple[jax.Array, jax.Array, jax.Array, Any]:
            loss, stats, gradient = self._generator_loss_and_gradient(state, fake)
            at_kernel = self._last_kernel_gradient(state.params, result.last_features, frozen)
            weight = self.weights.adversarial * adaptive_weight(at_kernel(image_gradient), at_kernel(gradient))
            return loss, weight, weight * gradient, stats

        def wait() -> tuple[jax.Array, jax.Array, jax.Array, Any]:
            return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(fake), state.disc_batch_stats

        playing = state.step > self.weights.disc_start
        adversarial_loss, weight, adversarial_gradient, disc_stats = jax.lax.cond(playing, play, wait)
        (grads,) = pull_back((image_gradient + adversarial_gradient, jnp.float32(self.weights.quantizer)))
        metrics |= {
            "loss": image_loss + self.weights.quantizer * quantizer_loss + weight * adversarial_loss,
            "quantizer_loss": quantizer_loss,
            "generator_loss": adversarial_loss,
            "adaptive_weight": weight,
            "words_used": _count_different(result.tokens.local_ids, self.model.num_local_words),
        }
        return grads, disc_stats, fake, metrics

    def discriminator_gradients(
        self, params: Any, batch_stats: Any, image: Float[Array, "b h w 3"], fake: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, ""], Any, Any]:
        """The discriminator's loss on images and reconstructions, its gradients, its new running statistics."""

        def loss(params: Any) -> tuple[jax.Array, Any]:
            real_logits, stats = self._score(params, batch_stats, image)
            fake_logits, stats = self._score(params, stats, fake)
            return discriminator_loss(real_logits, fake_logits), stats

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, stats

    def _score(self, params: Any, batch_stats: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = self.discriminator.apply(variables, image, train=True, mutable=["batch_stats"])
        return logits, updated["batch_stats"]

    def _image_loss_and_gradient(self, fake: jax.Array, image: jax.Array, frozen: dict[str, Any]) -> Any:
        def loss(fake: jax.Array) -> tuple[jax.Array, Metrics]:
            reconstruction = reconstruction_loss(image, fake)
            perceptual = jnp.zeros(())
            if self.lpips is not None:
                some = slice(self.perceptual_images)
                perceptual = jnp.mean(self.lpips(frozen["lpips"], image[some], fake[some]))
            metrics = {"reconstruction_loss": reconstruction, "perceptual_loss": perceptual}
            return reconstruction + self.weights.perceptual * perceptual, metrics

        return jax.value_and_grad(loss, has_aux=True)(fake)

    def _generator_loss_and_gradient(self, state: TrainState, fake: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        def loss(fake: jax.Array) -> tuple[jax.Array, Any]:
            logits, stats = self._score(state.disc_params, state.disc_batch_stats, fake)
            return generator_loss(logits), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(fake)
        return value, stats, gradient

    def _last_kernel_gradient(self, params: Any, last_features: jax.Array, frozen: dict[str, Any]) -> Callable:
        """Returns the map from a gradient at the reconstruction to one at the last convolution's kernel."""

        def to_image(kernel: jax.Array) -> jax.Array:
            last = {"conv_out": params["conv_out"] | {"kernel": kernel}}
            return self.model.apply({"params": last, "frozen": frozen["model"]}, last_features, method="to_image")

        _, pull_back = jax.vjp(to_image, params["conv_out"]["kernel"])
        return lambda gradient: pull_back(gradient)[0]


def _count_different(ids: jax.Array, vocabulary: int) -> jax.Array:
    return jnp.sum(jnp.zeros(vocabulary).at[ids.ravel()].set(1.0))
