"""Config → the tokenizer that trains, its trainer, and what is read back when it has trained."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2l_jax.buckets import CHECKPOINTS
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.sources import Source, WithVectors
from v2l_jax.data.transforms import ImageTransform
from v2l_jax.errors import ConfigError
from v2l_jax.parallel.mesh import replicate
from v2l_jax.run import loading, paths, word_vectors
from v2l_jax.tokenizers.base import VisualTokenizer, kind_module
from v2l_jax.tokenizers.reference import network_from_reference, read_reference
from v2l_jax.tokenizers.v2l import V2L
from v2l_jax.towers import vgg
from v2l_jax.training.trainer import Trainer

_PATHS = {
    "local": paths.local_path,
    "global": paths.global_path,
    "candidates": paths.candidates_path,
}


def codebooks(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Codebook]:
    """The run's codebooks of words that `config.model.kind` is made over, by name."""
    module, model = kind_module(config.model.kind), config.model
    books = {name: Codebook.load(_PATHS[name](workdir)) for name in module.WORDS}
    if hasattr(module, "word_vectors"):
        kind, scaled = module.word_vectors(model)
        books["local"] = word_vectors.with_vectors(config, workdir, books["local"], kind, scaled)
    return books


def vectors(books: Mapping[str, Codebook]) -> dict[str, np.ndarray]:
    """The vectors of codebooks, by name: what `tokenizer` and `frozen_inputs` take."""
    return {name: np.asarray(book.embeddings) for name, book in books.items()}


def tokenizer(config: ConfigDict, words: Mapping[str, Any]) -> VisualTokenizer:
    """The tokenizer of `config.model` over codebooks of words.

    Args:
      config: the experiment.
      words: vectors [entries, dim] of the codebooks by name, or their shapes.
    """
    dtype = loading.matmul_dtype(config.model.dtype)
    return kind_module(config.model.kind).make(config.model, config.train, words, dtype)


def trainer(
    config: ConfigDict, tokenizer: VisualTokenizer, num_images: int, mesh: Mesh | None = None
) -> Trainer:
    """What trains the tokenizer on `num_images` images, as `config.train` says."""
    return Trainer(
        tokenizer,
        config.train,
        config.model.image_size,
        num_images,
        seed=config.seed,
        perceptual_loss=vgg.lpips if config.train.perceptual else None,
        transform=image_transform(config, augment=True),
        mesh=mesh,
        sharding=config.sharding,
    )


def lpips_params(config: ConfigDict) -> Any:
    """LPIPS parameters, or None where `train.perceptual` names none."""
    path = config.train.perceptual
    return vgg.load_lpips(loading.locate(path)) if path else None


def frozen_inputs(
    tokenizer: VisualTokenizer, words: Mapping[str, Any], lpips: Any
) -> dict[str, Any]:
    """What a step gets beside the state: the tokenizer's frozen arrays, and LPIPS where there is
    one; arrays, or shapes.
    """
    model = {"model": tokenizer.frozen(words)}
    return model if lpips is None else model | {"lpips": lpips}


def with_inputs(
    tokenizer: VisualTokenizer, source: Source, vectors: Callable[[], np.ndarray]
) -> Source:
    """Images with all that the tokenizer takes: `vectors` makes the tower's, where it does."""
    takes = "image_embedding" in tokenizer.input_shapes(1)
    return WithVectors(source, vectors()) if takes else source


def image_transform(config: ConfigDict, augment: bool) -> ImageTransform:
    """The tokenizer's input: with the config's augmentation, or the centre square."""
    return ImageTransform(
        config.model.image_size,
        crop_size=config.data.crop_size or None,
        crop_scale=tuple(config.train.crop_scale) or None if augment else None,
        flip=augment and config.train.flip,
        antialias=config.data.antialias,
    )


def checkpoints_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where a run's checkpoints lie."""
    return workdir / CHECKPOINTS


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """The run's tokenizer, its variables on every device, and the words that its ids stand for.

    Attributes:
      tokenizer: what was trained.
      variables: "params" and "frozen".
      local_words, global_words: None where the kind is not made over them.
    """

    tokenizer: VisualTokenizer
    variables: dict[str, Any]
    local_words: Codebook | None = None
    global_words: Codebook | None = None


def trained_tokenizer(
    config: ConfigDict, workdir: pathlib.Path, num_images: int, mesh: Mesh
) -> TrainedTokenizer:
    """The best checkpoint of the run, or what `config.model.released` names; `num_images` are the
    training images.
    """
    books = codebooks(config, workdir)
    if config.model.released:
        return _released_tokenizer(config, books, mesh)
    words = vectors(books)
    network = tokenizer(config, words)
    training = trainer(config, network, num_images)
    with training.checkpointer(checkpoints_folder(workdir), every_process=False) as checkpoints:
        like = training.state_shapes
        params = checkpoints.restore(like, step=checkpoints.best_step()).state.eval_params
    variables = {"params": jax.tree.map(np.asarray, params), "frozen": network.frozen(words)}
    return TrainedTokenizer(
        network, replicate(variables, mesh), books.get("local"), books.get("global")
    )


def _released_tokenizer(
    config: ConfigDict, books: Mapping[str, Codebook], mesh: Mesh
) -> TrainedTokenizer:
    """The tokenizer of a checkpoint of the published code, whose vectors of images are the run's
    tower's.
    """
    arrays = read_reference(loading.locate(config.model.released))
    network, variables = network_from_reference(arrays)
    dtype = loading.matmul_dtype(config.model.dtype)
    model = V2L(network.clone(dtype=dtype), config.model.global_tokens)
    if config.model.image_size % network.downsampling:
        raise ConfigError(
            f"config.model.image_size is {config.model.image_size}, but the images of "
            f"{config.model.released} are multiples of {network.downsampling}"
        )
    if books["global"].embeddings.shape[1] != network.word_dim:
        raise ConfigError(
            f"the word vectors of {config.model.released} have {network.word_dim} dimensions, the "
            f"codebooks {books['global'].embeddings.shape[1]}; run the codebook job again"
        )
    own = {"params": variables["params"], "frozen": model.frozen(vectors(books))}
    return TrainedTokenizer(model, replicate(own, mesh), books["local"], books["global"])
