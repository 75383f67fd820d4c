"""One training run of a visual tokenizer, wired once: optimizers, state, placement, step, loader,
checkpoints and loop.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from v2l_jax.data.loader import Loader, make_loader
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import Transform
from v2l_jax.ops.run_once import run_once
from v2l_jax.parallel.mesh import local_rows, place
from v2l_jax.parallel.sharding import Rule, tree_shardings
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.loop import fit
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.metric_log import MetricLog
from v2l_jax.training.optimizer import make_optimizer, scaled_rate, warmup_cosine
from v2l_jax.training.profiler import StepProfiler
from v2l_jax.training.spikes import SpikeGuard
from v2l_jax.training.state import TrainState
from v2l_jax.training.step import StepFunction, make_train_step

if TYPE_CHECKING:
    from v2l_jax.tokenizers.base import VisualTokenizer


def total_steps(options: Any, num_images: int) -> int:
    """`options.steps`, or the steps of `options.epochs` over `num_images` images."""
    return options.steps or int(options.epochs * num_images) // options.batch_size


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What trains, on what, and how; everything else follows from it.

    Attributes:
      tokenizer: the network that trains.
      options: how; its attributes are those of `config.train`.
      image_size: side of the training images, pixels.
      num_images: images of an epoch.
      seed: of the state before the first step, and of the order of the images.
      perceptual_loss: `(lpips_params, image, reconstruction) -> [b]`; None trains without.
      transform: from a record to a row of a batch, augmented; None where no loader is asked for.
      mesh: the devices; None leaves placement to JAX.
      sharding: rules of `parallel.sharding` for the names "params/…", "frozen/…" and so on.
    """

    tokenizer: "VisualTokenizer"
    options: Any
    image_size: int
    num_images: int
    seed: int = 0
    perceptual_loss: Callable | None = None
    transform: Transform | None = None
    mesh: Mesh | None = None
    sharding: Sequence[Rule] = ()

    @property
    def total_steps(self) -> int:
        """See `total_steps`."""
        return total_steps(self.options, self.num_images)

    @property
    def learning_rate(self) -> float:
        """The peak of the schedule, scaled to the batch size."""
        c = self.options
        return scaled_rate(
            c.learning_rate, c.learning_rate_scaling, c.batch_size, c.base_batch_size
        )

    @functools.cached_property
    def optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        """The tokenizer's and the discriminator's optimizer, on one schedule (Zhu et al. 2024,
        section 4.1).
        """
        c = self.options
        warmup = c.warmup_steps or int(c.warmup_epochs * self.num_images) // c.batch_size
        schedule = warmup_cosine(self.learning_rate, warmup, self.total_steps)
        late = {
            "late": self.tokenizer.encoder_parameters,
            "late_start": c.encoder_start,
            "late_scale": c.encoder_scale,
        }
        return make_optimizer(schedule, c.optimizer, **late), make_optimizer(schedule, c.optimizer)

    def batch_shapes(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as shapes: float32 arrays of so many rows."""
        shapes = self.tokenizer.input_shapes(self.image_size)
        return {
            name: jax.ShapeDtypeStruct((rows, *shape), jnp.float32)
            for name, shape in shapes.items()
        }

    def initial_state(self) -> TrainState:
        """The state before the first step; a function of `seed` alone."""
        return run_once(self._start, jax.random.PRNGKey(self.seed))

    def _start(self, key: jax.Array) -> TrainState:
        for_model, for_discriminator, for_training = jax.random.split(key, 3)
        batch = {n: jnp.ones(x.shape, x.dtype) for n, x in self.batch_shapes(1).items()}
        disc_variables = PatchDiscriminator().init(for_discriminator, batch["image"], train=False)
        return TrainState.create(
            self.tokenizer.init(for_model, batch),
            disc_variables,
            *self.optimizers,
            for_training,
            ema=self.options.ema_decay > 0,
            spikes=self.options.skip_spikes_above > 0,
        )

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """`initial_state` as shapes, each where `sharding` puts it on the mesh."""
        return self.placed_shapes(jax.eval_shape(self._start, jax.random.PRNGKey(0)))

    def placed_state(self, params: Any = None) -> TrainState:
        """`initial_state`, each leaf made where it lies; the same numbers on any mesh.

        Args:
          params: parameters to start from instead, on the host.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_shapes)
        key = jax.random.PRNGKey(self.seed)
        state = run_once(self._start, key, out_shardings=shardings)
        if params is None:
            return state
        params = place(params, shardings.params)
        # The average is a copy: both are donated to the step.
        ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
        return state.replace(params=params, ema_params=ema)

    def placed_frozen(self, frozen: Mapping[str, Any]) -> dict[str, Any]:
        """The step's frozen inputs, each leaf where `sharding` puts it."""
        tree = {"frozen": frozen}
        return place(tree, self._shardings(tree))["frozen"]

    def placed_shapes(self, tree: Any) -> Any:
        """A tree of arrays or shapes as shapes that say where `sharding` puts them on the mesh, if
        there is one.
        """
        if self.mesh is None:
            return tree
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            tree,
            self._shardings(tree),
        )

    def step_function(self) -> StepFunction:
        """The compiled step, each leaf of the state where it lies on the mesh; its devices share
        the search for codebook entries.
        """
        c, shardings = self.options, None
        if self.mesh is not None:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_shapes)
        return make_train_step(
            self.tokenizer.on_mesh(self.mesh),
            PatchDiscriminator(dtype=self.tokenizer.dtype),
            self.perceptual_loss,
            LossWeights(
                c.weight_perceptual,
                c.weight_adversarial,
                c.disc_start,
                c.disc_warmup,
                c.weight_pixels,
            ),
            *self.optimizers,
            perceptual_images=c.perceptual_images or None,
            micro_batches=c.micro_batches,
            remat=c.remat,
            ema_decay=c.ema_decay,
            spike_guard=SpikeGuard(c.skip_spikes_above, c.skip_spikes_start)
            if c.skip_spikes_above
            else None,
            state_sharding=shardings,
        )

    def loader(self, images: Source) -> Loader:
        """This process's part of the augmented batches, for ever."""
        size = self.options.batch_size
        return make_loader(
            images,
            self.transform,
            size,
            seed=self.seed,
            rows=local_rows(self.mesh, size),
            workers=self.options.loader_workers,
        )

    def checkpointer(self, folder: pathlib.Path, every_process: bool = True) -> Checkpointer:
        """The run's checkpoints: the last ones, and the best by validation LPIPS or, without LPIPS,
        PSNR.

        Args:
          folder: where they lie.
          every_process: whether all processes of a job use it together, or this one alone.
        """
        metric = "psnr" if self.perceptual_loss is None else "lpips"
        return Checkpointer(
            folder,
            keep_last=self.options.keep_last,
            keep_every=self.options.keep_every,
            best_metric=metric,
            higher_is_better=metric == "psnr",
            every_process=every_process,
        )

    def fit(
        self,
        state: TrainState,
        loader: Loader,
        frozen: Mapping[str, Any],
        *,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        metric_log: MetricLog,
        description: str,
        step: StepFunction | None = None,
        checkpointer: Checkpointer | None = None,
        until: Callable[[Mapping[str, float]], bool] | None = None,
        profiler: StepProfiler | None = None,
    ) -> TrainState:
        """Trains to the end; see `training.loop.fit`, which says what the arguments are.

        Args:
          step: a compiled step of the same options, to use again; None compiles one.
        """
        c = self.options
        return fit(
            state,
            step or self.step_function(),
            loader,
            frozen,
            num_steps=self.total_steps,
            mesh=self.mesh,
            checkpointer=checkpointer,
            metric_log=metric_log,
            log_every=c.log_every,
            checkpoint_every=c.checkpoint_every,
            eval_every=c.eval_every,
            evaluate=evaluate,
            until=until,
            show=("loss", "reconstruction_loss", "words_used"),
            description=description,
            hang_seconds=60.0 * c.hang_minutes,
            profiler=profiler,
        )

    def _shardings(self, tree: Any) -> Any:
        return tree_shardings(tree, self.mesh, self.sharding, misfits="replicate")
