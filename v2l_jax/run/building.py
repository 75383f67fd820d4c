"""Config → the tokenizer that trains: model, discriminator, optimizers, state, step."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.transforms import ImageTransform
from v2l_jax.jobs import codebook
from v2l_jax.parallel.mesh import place, replicate
from v2l_jax.parallel.sharding import tree_shardings
from v2l_jax.run import loading
from v2l_jax.tokenizers.projector_upkeep import ProjectorUpkeep
from v2l_jax.tokenizers.released import load_tokenizer
from v2l_jax.tokenizers.v2l import V2LTokenizer
from v2l_jax.towers import vgg
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.discriminator import PatchDiscriminator
from v2l_jax.training.losses import LossWeights
from v2l_jax.training.optimizer import make_optimizer, scaled_rate, warmup_cosine
from v2l_jax.training.spikes import SpikeGuard
from v2l_jax.training.state import TrainState
from v2l_jax.training.step import StepFunction, make_train_step

ENCODER = "^(encoder|to_words|projector)"
"""Paths of the parameters that choose the local words."""


def tokenizer(
    config: ConfigDict, num_local_words: int, num_global_words: int, word_dim: int
) -> V2LTokenizer:
    """The model of `config.model` over codebooks of these sizes."""
    c = config.model
    return V2LTokenizer(
        channels=c.channels,
        channel_multipliers=tuple(c.channel_multipliers),
        num_res_blocks=c.num_res_blocks,
        z_channels=c.z_channels,
        attn_resolutions=tuple(c.attn_resolutions),
        resolution=c.resolution,
        word_dim=word_dim,
        num_local_words=num_local_words,
        num_global_words=num_global_words,
        cross_attention_heads=c.cross_attention_heads,
        dtype=loading.matmul_dtype(c.dtype),
    )


def tokenizer_for(config: ConfigDict, local: Codebook, global_: Codebook) -> V2LTokenizer:
    """The model of `config.model` over these codebooks."""
    return tokenizer(config, len(local), len(global_), local.embeddings.shape[1])


def frozen_words(local: Codebook, global_: Codebook) -> dict[str, Any]:
    """The model's "frozen" collection: word vectors, which nothing trains."""
    return {
        "local_words": np.asarray(local.embeddings),
        "global_words": np.asarray(global_.embeddings),
    }


def total_steps(config: ConfigDict, num_images: int) -> int:
    """`train.steps`, or the steps of `train.epochs` over `num_images` images."""
    return config.train.steps or int(config.train.epochs * num_images) // config.train.batch_size


def optimizers(
    config: ConfigDict, num_images: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The tokenizer's and the discriminator's optimizer, on one schedule (Zhu et al. 2024, section
    4.1).
    """
    c = config.train
    warmup = c.warmup_steps or int(c.warmup_epochs * num_images) // c.batch_size
    rate = scaled_rate(c.learning_rate, c.learning_rate_scaling, c.batch_size, c.base_batch_size)
    schedule = warmup_cosine(rate, warmup, total_steps(config, num_images))
    late = {"late": ENCODER, "late_start": c.encoder_start, "late_scale": c.encoder_scale}
    return make_optimizer(schedule, c.optimizer, **late), make_optimizer(schedule, c.optimizer)


def initial_state(config: ConfigDict, model: V2LTokenizer, num_images: int) -> TrainState:
    """The state before the first step; a function of `config.seed` alone."""
    key = jax.random.PRNGKey(config.seed)
    for_model, for_discriminator, for_training = jax.random.split(key, 3)
    image = jnp.zeros((1, config.model.image_size, config.model.image_size, 3))
    image_embedding = jnp.ones((1, model.word_dim))
    params = model.init(for_model, image, image_embedding, config.model.global_tokens)["params"]
    disc_variables = PatchDiscriminator().init(for_discriminator, image, train=False)
    return TrainState.create(
        params,
        disc_variables,
        *optimizers(config, num_images),
        for_training,
        ema=config.train.ema_decay > 0,
        spikes=config.train.skip_spikes_above > 0,
        count_words=model.num_local_words if config.train.projector_revive_every else 0,
    )


def placed_state(
    config: ConfigDict, model: V2LTokenizer, num_images: int, mesh: Mesh
) -> TrainState:
    """`initial_state`, each leaf made where `config.sharding` puts it; the same numbers on any
    mesh.
    """

    def make() -> TrainState:
        return initial_state(config, model, num_images)

    shardings = tree_shardings(jax.eval_shape(make), mesh, config.sharding, misfits="replicate")
    return jax.jit(make, out_shardings=shardings)()


def with_released_params(
    config: ConfigDict, state: TrainState, model: V2LTokenizer, local_words: Codebook
) -> TrainState:
    """The state with the parameters of the released tokenizer `config.train.start_from`, each where
    the state's own lies.

    Raises:
      CheckpointError: its files are missing, cut short or changed.
      ConfigError: it speaks other words than these, or `config.model` has other sizes than it.
    """
    released = load_tokenizer(config.train.start_from)
    released.check_words(local_words)
    released.check_sizes(model)
    params = place(
        released.variables["params"], jax.tree.map(lambda leaf: leaf.sharding, state.params)
    )
    ema = (
        None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    )  # not the same buffers: both are donated
    return state.replace(params=params, ema_params=ema)


def frozen_inputs(config: ConfigDict, words: dict[str, Any]) -> dict[str, Any]:
    """What the step gets beside the state: word vectors, and LPIPS where the config trains with it."""
    lpips = (
        {"lpips": vgg.load_lpips(loading.locate(config.train.perceptual))}
        if config.train.perceptual
        else {}
    )
    return {"model": words} | lpips


def placed_frozen(config: ConfigDict, words: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """`frozen_inputs`, each leaf where `config.sharding` puts it."""
    tree = {"frozen": frozen_inputs(config, words)}
    return place(tree, tree_shardings(tree, mesh, config.sharding, misfits="replicate"))["frozen"]


def train_step(
    config: ConfigDict,
    model: V2LTokenizer,
    num_images: int,
    state_sharding: TrainState | None = None,
) -> StepFunction:
    """The compiled step of this config; `state_sharding` as in `make_train_step`, whose devices
    share the search for words.
    """
    c = config.train
    weights = LossWeights(
        c.weight_quantizer,
        c.weight_perceptual,
        c.weight_adversarial,
        c.disc_start,
        c.disc_warmup,
        c.weight_entropy,
        c.entropy_temperature,
    )
    upkeep = ProjectorUpkeep(
        c.projector_fit_every,
        c.projector_fit_until,
        c.projector_recenter_every,
        c.projector_revive_every,
    )
    lpips = vgg.lpips if c.perceptual else None
    discriminator = PatchDiscriminator(dtype=model.dtype)
    return make_train_step(
        model.clone(mesh=state_sharding.step.mesh if state_sharding else None),
        discriminator,
        lpips,
        weights,
        *optimizers(config, num_images),
        k=config.model.global_tokens,
        perceptual_images=c.perceptual_images or None,
        projector_upkeep=upkeep,
        micro_batches=c.micro_batches,
        remat=c.remat,
        ema_decay=c.ema_decay,
        spike_guard=SpikeGuard(c.skip_spikes_above, c.skip_spikes_start)
        if c.skip_spikes_above
        else None,
        state_sharding=state_sharding,
    )


def image_transform(config: ConfigDict, augment: bool) -> ImageTransform:
    """The tokenizer's input: with the config's augmentation, or the centre square."""
    return ImageTransform(
        config.model.image_size,
        crop_size=config.data.crop_size or None,
        crop_scale=tuple(config.train.crop_scale) or None if augment else None,
        flip=augment and config.train.flip,
        antialias=config.data.antialias,
    )


def checkpointer(
    config: ConfigDict, workdir: pathlib.Path, every_process: bool = True
) -> Checkpointer:
    """The run's checkpoints: the last ones, and the best by held-out LPIPS or, without LPIPS, PSNR.

    Args:
      config, workdir: of the run.
      every_process: whether all processes of a job use it together, or this one alone.
    """
    metric = "lpips" if config.train.perceptual else "psnr"
    return Checkpointer(
        workdir / "checkpoints",
        keep_last=config.train.keep_last,
        keep_every=config.train.keep_every,
        best_metric=metric,
        higher_is_better=metric == "psnr",
        every_process=every_process,
    )


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """The run's tokenizer: its model, its variables on every device, and the words its ids stand
    for.
    """

    model: V2LTokenizer
    variables: dict[str, Any]
    local_words: Codebook
    global_words: Codebook


def trained_tokenizer(
    config: ConfigDict, workdir: pathlib.Path, num_images: int, mesh: Mesh
) -> TrainedTokenizer:
    """The best checkpoint of the run; `num_images` are the training photos, as in `initial_state`."""
    local, global_ = (
        Codebook.load(codebook.local_path(workdir)),
        Codebook.load(codebook.global_path(workdir)),
    )
    model = tokenizer_for(config, local, global_)
    with checkpointer(config, workdir, every_process=False) as checkpoints:
        like = jax.eval_shape(lambda: initial_state(config, model, num_images))
        params = checkpoints.restore(like, step=checkpoints.best_step()).state.eval_params
    variables = replicate(
        {"params": jax.tree.map(np.asarray, params), "frozen": frozen_words(local, global_)}, mesh
    )
    return TrainedTokenizer(model, variables, local, global_)
