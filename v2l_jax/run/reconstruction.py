"""Images → tokens → images, and how much was lost on the way."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import Source, Subset
from v2l_jax.data.transforms import to_uint8
from v2l_jax.metrics.codebook_usage import CodebookUsage, count_words, summarise
from v2l_jax.metrics.image_quality import psnr, ssim
from v2l_jax.ops.batches import divisible, fill
from v2l_jax.parallel.mesh import shard_batch
from v2l_jax.parallel.processes import sum_over_processes, whole_on_own_devices
from v2l_jax.progress import progress_bar
from v2l_jax.run import building, loading
from v2l_jax.tokenizers.base import TokenStreams, VisualTokenizer
from v2l_jax.towers import vgg
from v2l_jax.towers.inception import InceptionOutput, inception_outputs

EVALUATION_IMAGES = 128


@dataclasses.dataclass(frozen=True)
class Scores:
    """Quality of reconstructions.

    Attributes:
      per_image: values by metric, one an image.
      word_counts: how often each entry of the codebook was used.
      tokens_per_image: ids an image, by stream.
    """

    per_image: dict[str, Float[np.ndarray, " images"]]
    word_counts: Int[np.ndarray, " words"]
    tokens_per_image: dict[str, int]

    @property
    def usage(self) -> CodebookUsage:
        """How much of the codebook was used."""
        return summarise(self.word_counts)


@functools.partial(jax.jit, static_argnames="tokenizer")
def _pass(tokenizer: VisualTokenizer, variables: Any, lpips: Any, batch: dict[str, Any]) -> Any:
    image, tokens = tokenizer.reconstruct(variables, batch)
    decoded = jnp.clip(image, -1.0, 1.0)
    scores = {"psnr": psnr(batch["image"], decoded), "ssim": ssim(batch["image"], decoded)}
    if lpips is not None:
        scores["lpips"] = vgg.lpips(lpips, batch["image"], decoded)
    picture = jnp.round((decoded + 1.0) * 127.5).astype(jnp.uint8)
    return tokens, picture, scores


def reconstruct(
    config: ConfigDict,
    tokenizer: VisualTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    lpips: Any = None,
) -> Iterator[
    tuple[
        TokenStreams, UInt8[np.ndarray, "batch side side 3"], dict[str, Float[np.ndarray, " batch"]]
    ]
]:
    """Tokenizes and decodes every image of `source`, in order, a batch at a time.

    Args:
      config: the experiment.
      tokenizer, variables: the tokenizer.
      source: images; the centre square of each is used; records carry what else the tokenizer
        takes.
      mesh: batches are spread over it.
      lpips: LPIPS parameters; None leaves that metric out.

    Yields:
      Token ids by stream, images decoded from them, and quality of each by metric.
    """
    for batch, count in full_batches(config, tokenizer, source, mesh):
        result = _pass(tokenizer, variables, lpips, batch)
        yield jax.tree.map(lambda x: np.asarray(x)[:count], result)


def full_batches(
    config: ConfigDict, tokenizer: VisualTokenizer, source: Source, mesh: Mesh
) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Batches of `evaluate.batch_size` images over the mesh, with all that the tokenizer takes; the
    last is filled up. Yields each with its count of real ones.
    """
    size = divisible(config.evaluate.batch_size, mesh)
    transform = building.image_transform(config, augment=False)
    names = tokenizer.input_shapes(config.model.image_size)
    for batch in make_loader(
        source, transform, size, seed=0, shuffle=False, num_epochs=1, drop_remainder=False
    ):
        filled, count = fill({name: batch[name] for name in names}, size)
        yield shard_batch(filled, mesh), count


def encoded(
    config: ConfigDict,
    trained: building.TrainedTokenizer,
    source: Source,
    mesh: Mesh,
    description: str,
) -> TokenStreams:
    """The token ids of all images of a source, which holds what the tokenizer takes."""
    encode = jax.jit(trained.tokenizer.encode)
    batches = progress_bar(
        full_batches(config, trained.tokenizer, source, mesh),
        description,
        "batch",
        -(-len(source) // config.evaluate.batch_size),
    )
    parts = [
        jax.tree.map(lambda x, n=count: np.asarray(x)[:n], encode(trained.variables, batch))
        for batch, count in batches
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _counts(tokenizer: VisualTokenizer, tokens: TokenStreams) -> Int[Any, " words"]:
    """How often the counted streams name each entry; ids of -1 are left out."""
    size = tokenizer.codebooks[tokenizer.counted_streams[0]]
    return sum(count_words(tokens[stream], size) for stream in tokenizer.counted_streams)


@functools.partial(jax.jit, static_argnames="tokenizer")
def _count(
    tokenizer: VisualTokenizer, variables: Any, batch: dict[str, jax.Array], real: jax.Array
) -> Int[jax.Array, " words"]:
    tokens = tokenizer.encode(variables, batch)
    kept = lambda ids: jnp.where(real.reshape(-1, *[1] * (ids.ndim - 1)), ids, -1)
    return _counts(tokenizer, {stream: kept(ids) for stream, ids in tokens.items()})


def word_counts(
    config: ConfigDict, tokenizer: VisualTokenizer, variables: Any, source: Source, mesh: Mesh
) -> Int[np.ndarray, " words"]:
    """How often a source's images use each codebook entry; arguments as in `reconstruct`. Nothing
    is decoded.
    """
    counts = np.zeros(tokenizer.codebooks[tokenizer.counted_streams[0]], np.int64)
    if len(source):
        for batch, count in full_batches(config, tokenizer, source, mesh):
            real = np.arange(len(batch["image"])) < count
            counts = counts + np.asarray(_count(tokenizer, variables, batch, real))
    return counts


def inception_of_pairs(
    config: ConfigDict,
    tokenizer: VisualTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    inception: Any,
) -> tuple[InceptionOutput, InceptionOutput]:
    """What Inception makes of a source's images at the tokenizer's size, and of their
    reconstructions, in the same order.

    Args:
      config, tokenizer, variables, source, mesh: as in `reconstruct`.
      inception: from `towers.inception.load_inception`.
    """
    originals, pictures = [], []
    for batch, count in full_batches(config, tokenizer, source, mesh):
        decoded = _pass(tokenizer, variables, None, batch)[1]
        for outputs, images in (
            (originals, to_uint8(np.asarray(batch["image"]))),
            (pictures, np.asarray(decoded)),
        ):
            outputs.append(
                inception_outputs(inception, images[:count], mesh, len(images), description="")
            )
    join = lambda outputs: jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    return join(originals), join(pictures)


def score(
    config: ConfigDict,
    tokenizer: VisualTokenizer,
    variables: Any,
    source: Source,
    mesh: Mesh,
    lpips: Any = None,
) -> Scores:
    """Quality of the reconstructions of a whole source; arguments as in `reconstruct`."""
    values, counts, sizes = [], 0, {}
    for tokens, _, scores in reconstruct(config, tokenizer, variables, source, mesh, lpips):
        values.append(scores)
        counts = counts + np.asarray(_counts(tokenizer, tokens), np.int64)
        sizes = {stream: ids[0].size for stream, ids in tokens.items()}
    return Scores(jax.tree.map(lambda *x: np.concatenate(x), *values), counts, sizes)


def evaluator(
    config: ConfigDict, tokenizer: VisualTokenizer, frozen: Any, validation: Source, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Returns `state -> validation metrics`, over the same images each time; several processes
    share these.

    Quality is the mean over `EVALUATION_IMAGES` images, decoded. Which codebook entries are used is
    counted over all of them, encoded only: codebook_usage (share of the entries), perplexity,
    dead_words (how many no image uses).

    Args:
      config: the experiment.
      tokenizer: what trains.
      frozen: the step's frozen inputs.
      validation: images, with what else the tokenizer takes.
      mesh: where state and `frozen` lie.
    """
    chosen = np.linspace(0, len(validation) - 1, min(EVALUATION_IMAGES, len(validation)))
    chosen = chosen.astype(int)
    others = np.setdiff1d(np.arange(len(validation)), chosen)
    own_images, own_others = (
        Subset(validation, part[jax.process_index() :: jax.process_count()])
        for part in (chosen, others)
    )
    own_mesh = loading.mesh(config)

    def evaluate(state: Any) -> dict[str, float]:
        params, given = whole_on_own_devices((state.eval_params, frozen), mesh, own_mesh)
        variables = {"params": params, "frozen": given["model"]}
        scores = score(config, tokenizer, variables, own_images, own_mesh, given.get("lpips"))
        counts = scores.word_counts + word_counts(
            config, tokenizer, variables, own_others, own_mesh
        )
        sums = {name: values.sum(dtype=np.float64) for name, values in scores.per_image.items()}
        sums, counts = sum_over_processes((sums, counts))
        usage = summarise(counts)
        return {name: float(value) / len(chosen) for name, value in sums.items()} | {
            "codebook_usage": usage.fraction,
            "perplexity": usage.perplexity,
            "dead_words": float(len(usage.dead)),
        }

    return evaluate
