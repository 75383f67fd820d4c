"""One jitted training step: tokenizer update, then discriminator update."""

from collections.abc import Callable
from typing import Any

import optax

from v2l_jax.tokenizer.losses import LossWeights
from v2l_jax.training.state import TrainState

Batch = dict[str, Any]
Metrics = dict[str, Any]
StepFunction = Callable[[TrainState, Batch, dict[str, Any]], tuple[TrainState, Metrics]]


def make_train_step(
    model: Any,
    discriminator: Any,
    lpips: Callable | None,
    weights: LossWeights,
    tx: optax.GradientTransformation,
    disc_tx: optax.GradientTransformation,
    *,
    k: int,
    refresh_reconstruction: bool = True,
    state_sharding: Any = None,
) -> StepFunction:
    """Returns the compiled step `(state, batch, frozen) -> (state, metrics)`; the given state is donated.

    `batch`: {"image": float32 [b, h, w, 3] in [-1, 1], "semantic": float32 [b, d] image embeddings, or the tower's
    input images [b, s, s, 3]}. `frozen`: {"model": the model's "frozen" collection (local_words [v, d], global_words
    [g, d], and the tower's parameters where the step runs the tower), "lpips": LPIPS parameters (absent without LPIPS)}.
    `metrics`: float32 scalars loss, reconstruction_loss, quantizer_loss, perceptual_loss, generator_loss,
    discriminator_loss, adaptive_weight, gradient_norm, words_used.

    Args:
      model: a `V2LTokenizer`.
      discriminator: a `PatchDiscriminator`.
      lpips: `(lpips_params, image, reconstruction) -> [b]`, or None to train without a perceptual loss.
      weights: loss weights and the step at which the GAN starts.
      tx: optimizer of the tokenizer.
      disc_tx: optimizer of the discriminator.
      k: global words an image gets.
      refresh_reconstruction: whether the discriminator sees the reconstruction by the just-updated tokenizer (one more
        forward pass, as the published code does) or the one that the tokenizer's own update used.
      state_sharding: sharding of the returned state (a prefix pytree); None lets the compiler choose.
    """
    raise NotImplementedError
