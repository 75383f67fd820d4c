"""Photos → words → photos, and how much was lost on the way."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import to_uint8
from v2l_jax.metrics.codebook_usage import CodebookUsage, count_words, summarise
from v2l_jax.metrics.image_quality import psnr, ssim
from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.run import building
from v2l_jax.tokenizers.v2l import ImageTokens, V2LTokenizer
from v2l_jax.towers import vgg
from v2l_jax.towers.inception import InceptionOutput, inception_outputs


@dataclasses.dataclass(frozen=True)
class Scores:
    """Quality of reconstructions: per-image values by metric, and how often each local word was
    used.
    """

    per_image: dict[str, Float[np.ndarray, " images"]]
    word_counts: Int[np.ndarray, " words"]

    @property
    def usage(self) -> CodebookUsage:
        """How much of the local vocabulary was used."""
        return summarise(self.word_counts)


@functools.partial(jax.jit, static_argnames=("model", "k"))
def _pass(
    model: V2LTokenizer,
    variables: Any,
    lpips: Any,
    image: jax.Array,
    image_embedding: jax.Array,
    k: int,
) -> Any:
    result: Any = model.apply(variables, image, image_embedding, k)
    decoded = jnp.clip(result.image, -1.0, 1.0)
    scores = {"psnr": psnr(image, decoded), "ssim": ssim(image, decoded)}
    if lpips is not None:
        scores["lpips"] = vgg.lpips(lpips, image, decoded)
    picture = jnp.round((decoded + 1.0) * 127.5).astype(jnp.uint8)
    return result.tokens, picture, scores


def reconstruct(
    config: ConfigDict,
    model: V2LTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    lpips: Any = None,
) -> Iterator[
    tuple[
        ImageTokens, UInt8[np.ndarray, "batch side side 3"], dict[str, Float[np.ndarray, " batch"]]
    ]
]:
    """Tokenizes and decodes every image of `source`, in order, a batch at a time.

    Args:
      config: the experiment.
      model, variables: the tokenizer.
      source: images; the centre square of each is used; records carry the tower's vectors.
      mesh: batches are spread over it.
      lpips: LPIPS parameters; None leaves that metric out.

    Yields:
      Words, pictures decoded from them, and quality of each by metric.
    """
    for batch, count in full_batches(config, source, mesh):
        result = _pass(
            model,
            variables,
            lpips,
            batch["image"],
            batch["image_embedding"],
            config.model.global_tokens,
        )
        yield jax.tree.map(lambda x: np.asarray(x)[:count], result)


def full_batches(
    config: ConfigDict, source: Source, mesh: Mesh
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Batches of `evaluate.batch_size` images over the mesh; the last is filled up. Yields each
    with its count of real ones.
    """
    size = -(-config.evaluate.batch_size // mesh.size) * mesh.size
    transform = building.image_transform(config, augment=False)
    for batch in make_loader(
        source, transform, size, seed=0, shuffle=False, num_epochs=1, drop_remainder=False
    ):
        count = len(batch["image"])
        filled = {
            k: np.concatenate([batch[k], np.repeat(batch[k][:1], size - count, 0)])
            for k in ("image", "image_embedding")
        }
        yield shard_batch(filled, mesh), count


@functools.partial(jax.jit, static_argnames="model")
def _count(
    model: V2LTokenizer, variables: Any, image: jax.Array, real: jax.Array
) -> Int[jax.Array, " words"]:
    ids = model.apply(
        variables, model.apply(variables, image, method="latents"), method="local_ids"
    )
    return count_words(jnp.where(real[:, None, None], ids, -1), model.num_local_words)


def word_counts(
    config: ConfigDict, model: V2LTokenizer, variables: Any, source: Source, mesh: Mesh
) -> Int[np.ndarray, " words"]:
    """How often a source's images use each local word; arguments as in `reconstruct`. Nothing is
    decoded.
    """
    counts = np.zeros(model.num_local_words, np.int64)
    if len(source):
        for batch, count in full_batches(config, source, mesh):
            real = np.arange(len(batch["image"])) < count
            counts = counts + np.asarray(_count(model, variables, batch["image"], real))
    return counts


def inception_of_pairs(
    config: ConfigDict,
    model: V2LTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    inception: Any,
) -> tuple[InceptionOutput, InceptionOutput]:
    """What Inception makes of a source's photos at the model's size, and of their reconstructions,
    in the same order.

    Args:
      config, model, variables, source, mesh: as in `reconstruct`.
      inception: from `towers.inception.load_inception`.
    """
    photos, pictures = [], []
    for batch, count in full_batches(config, source, mesh):
        decoded = _pass(
            model,
            variables,
            None,
            batch["image"],
            batch["image_embedding"],
            config.model.global_tokens,
        )[1]
        for outputs, images in (
            (photos, to_uint8(np.asarray(batch["image"]))),
            (pictures, np.asarray(decoded)),
        ):
            outputs.append(
                inception_outputs(inception, images[:count], mesh, len(images), description="")
            )
    join = lambda outputs: jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    return join(photos), join(pictures)


def score(
    config: ConfigDict,
    model: V2LTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    lpips: Any = None,
) -> Scores:
    """Quality of the reconstructions of a whole source; arguments as in `reconstruct`."""
    values, counts = [], np.zeros(model.num_local_words, np.int64)
    for tokens, _, scores in reconstruct(config, model, variables, source, mesh, lpips):
        values.append(scores)
        counts = counts + np.asarray(count_words(tokens.local_ids, model.num_local_words))
    return Scores(jax.tree.map(lambda *x: np.concatenate(x), *values), counts)
