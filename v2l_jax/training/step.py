"""One jitted training step: the tokenizer's update, then the discriminator's."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from v2l_jax.training.accumulation import accumulate
from v2l_jax.training.adversarial_loss import AdversarialLoss, Metrics
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.spikes import SpikeGuard
from v2l_jax.training.state import TrainState

if TYPE_CHECKING:
    from v2l_jax.tokenizers.base import TokenStreams, VisualTokenizer

Batch = dict[str, Any]
StepFunction = Callable[[TrainState, Batch, dict[str, Any]], tuple[TrainState, Metrics]]


def make_train_step(
    tokenizer: "VisualTokenizer",
    discriminator: PatchDiscriminator,
    lpips: Callable | None,
    weights: LossWeights,
    tx: optax.GradientTransformation,
    disc_tx: optax.GradientTransformation,
    *,
    perceptual_images: int | None = None,
    micro_batches: int = 1,
    remat: str = "none",
    ema_decay: float = 0.0,
    spike_guard: SpikeGuard | None = None,
    state_sharding: TrainState | None = None,
) -> StepFunction:
    """Returns the compiled step `(state, batch, frozen) -> (state, metrics)`; the given state is
    donated.

    The discriminator sees reconstructions by the just-updated tokenizer, one more forward pass, as
    in the published code.

    `batch`: arrays by name, `tokenizer.input_shapes` each; "image" is float32 [b, h, w, 3] in [-1,
    1]. `frozen`: {"model": the tokenizer's "frozen" collection, "lpips": LPIPS parameters (absent
    without LPIPS)}. `metrics`: float32 scalars loss, reconstruction_loss, perceptual_loss,
    generator_loss, discriminator_loss, adaptive_weight, gradient_norm, words_used (different
    codebook entries in the batch), the tokenizer's own losses and, with a `spike_guard`, skipped (1
    where the step was left out). The three adversarial ones are 0 until the step counter exceeds
    `weights.disc_start`, the discriminator's `weights.disc_warmup` earlier; until then the game
    costs nothing.

    Args:
      tokenizer: what trains.
      discriminator: the discriminator.
      lpips: `(lpips_params, image, reconstruction) -> [b]`, or None to train without a perceptual
        loss.
      weights: loss weights and the step at which the GAN starts.
      tx: optimizer of the tokenizer; gets `step` as an extra argument.
      disc_tx: optimizer of the discriminator; gets `step` as an extra argument.
      perceptual_images: LPIPS is the mean over this many images, the (micro-)batch's first; None
        takes all, as the paper does.
      micro_batches: parts of a batch whose gradients are taken one after the other and averaged
        (`training.accumulation`). Losses are means, so the result is that of the whole batch, but
        for the adversarial terms and losses that are no means: BatchNorm, the adaptive weight and
        an entropy regulariser's histogram see a part at a time.
      remat: one of `remat.REMAT_POLICIES`.
      ema_decay: of the moving average in `state.ema_params`, less at the start: (1 + step) / (10 +
        step) at most.
      spike_guard: leaves out steps with a sudden gradient; `state.spikes` remembers. None takes
        every step.
      state_sharding: a NamedSharding for each leaf of the state (FSDP where it splits parameters:
        each step gathers them for its computations and scatters the gradients); None leaves all to
        the compiler.
    """
    step = _Step(
        adversarial_loss=AdversarialLoss(
            tokenizer, discriminator, lpips, weights, perceptual_images, remat
        ),
        tx=optax.with_extra_args_support(tx),
        disc_tx=optax.with_extra_args_support(disc_tx),
        micro_batches=micro_batches,
        ema_decay=ema_decay,
        spike_guard=spike_guard,
        state_sharding=state_sharding,
    )
    shardings = {}
    if state_sharding is not None:
        shardings = {
            "in_shardings": (state_sharding, None, None),
            "out_shardings": (state_sharding, None),
        }
    return jax.jit(step.__call__, donate_argnums=0, **shardings)


@dataclasses.dataclass(frozen=True)
class _Step:
    """What `make_train_step` compiles; its arguments say what the fields are."""

    adversarial_loss: AdversarialLoss
    tx: optax.GradientTransformationExtraArgs
    disc_tx: optax.GradientTransformationExtraArgs
    micro_batches: int
    ema_decay: float
    spike_guard: SpikeGuard | None
    state_sharding: TrainState | None

    def __call__(
        self, state: TrainState, batch: Batch, frozen: dict[str, Any]
    ) -> tuple[TrainState, Metrics]:
        weights = self.adversarial_loss.weights
        new, metrics = self._train_tokenizer(state, batch, frozen)
        new, metrics["discriminator_loss"] = jax.lax.cond(
            state.step > weights.disc_start - weights.disc_warmup,
            lambda new: self._train_discriminator(new, batch, frozen),
            lambda new: (new, jnp.zeros(())),
            new,
        )
        if state.ema_params is not None:
            decay = jnp.minimum(self.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            new = new.replace(
                ema_params=optax.incremental_update(new.params, state.ema_params, 1.0 - decay)
            )
        if self.spike_guard is not None:
            skip, spikes = self.spike_guard.judge(
                state.spikes, state.step, metrics["gradient_norm"]
            )
            new = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state, new).replace(
                spikes=spikes
            )
            metrics["skipped"] = skip.astype(jnp.float32)
        return new.replace(step=state.step + 1), metrics

    def _train_tokenizer(
        self, state: TrainState, batch: Batch, frozen: Any
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after the tokenizer's update, and metrics."""
        gathered = state.replace(
            params=self._whole(state.params), disc_params=self._whole(state.disc_params)
        )

        def gradients(disc_stats: Any, part: Batch) -> tuple[Any, Any, Any]:
            now = gathered.replace(disc_batch_stats=disc_stats)
            grads, disc_stats, tokens, metrics = self.adversarial_loss.tokenizer_gradients(
                now, part, frozen
            )
            return disc_stats, (grads, metrics), tokens

        disc_stats, (grads, metrics), tokens = accumulate(
            gradients, state.disc_batch_stats, batch, self.micro_batches
        )
        metrics |= {
            "words_used": jnp.sum(self.adversarial_loss.tokenizer.used_entries(tokens)),
            "gradient_norm": optax.global_norm(grads),
        }
        grads = self._split_as("params", grads)
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(params=params, opt_state=opt_state, disc_batch_stats=disc_stats)
        return self._after_update(new, batch, tokens, frozen), metrics

    def _after_update(
        self, state: TrainState, batch: Batch, tokens: "TokenStreams", frozen: Any
    ) -> TrainState:
        """The state with what the tokenizer changes beside the gradient's update."""
        variables = self.adversarial_loss.tokenizer.after_update(
            state.variables(state.params, frozen), batch, tokens, state.step, self.micro_batches
        )
        return state.replace(
            params=self._split_as("params", variables["params"]), memory=variables.get("memory")
        )

    def _train_discriminator(
        self, state: TrainState, batch: Batch, frozen: Any
    ) -> tuple[TrainState, jax.Array]:
        """Returns the state after the discriminator's update, and its loss."""
        params, disc_params = self._whole(state.params), self._whole(state.disc_params)

        def gradients(disc_stats: Any, part: Batch) -> tuple[Any, Any, Any]:
            fake = self.adversarial_loss.forward(state, params, part, frozen).image
            loss, grads, disc_stats = self.adversarial_loss.discriminator_gradients(
                disc_params, disc_stats, part["image"], fake
            )
            return disc_stats, (grads, loss), ()

        disc_stats, (grads, loss), _ = accumulate(
            gradients, state.disc_batch_stats, batch, self.micro_batches
        )
        grads = self._split_as("disc_params", grads)
        updates, opt_state = self.disc_tx.update(
            grads, state.disc_opt_state, state.disc_params, step=state.step
        )
        disc_params = optax.apply_updates(state.disc_params, updates)
        return state.replace(
            disc_params=disc_params, disc_batch_stats=disc_stats, disc_opt_state=opt_state
        ), loss

    def _whole(self, tree: Any) -> Any:
        """Gathers parameters that `state_sharding` splits, for computations on every device."""
        if self.state_sharding is None:
            return tree
        return jax.lax.with_sharding_constraint(
            tree, NamedSharding(self.state_sharding.step.mesh, PartitionSpec())
        )

    def _split_as(self, field: str, tree: Any) -> Any:
        """Splits gradients or parameters as that field of the state is."""
        if self.state_sharding is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, getattr(self.state_sharding, field))
