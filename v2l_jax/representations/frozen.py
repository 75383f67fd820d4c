"""Frozen (Tsimpoukelli et al. 2021): an image is written as a few vectors in the place of word
embeddings, made by a network that is trained through the frozen language model to make it write the
image's caption.

The paper trains an NF-ResNet-50 on three million captions. Here the run's tower looks at images and
a linear map of its vectors trains, on a file of captions or on the class names of the run's
labelled training images. What is learnt stays in the folder frozen/ of the workdir.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from jaxtyping import Array, Float, Int

from v2l_jax.atomic_write import atomic_write
from v2l_jax.buckets import CHECKPOINTS
from v2l_jax.errors import DataError
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.llm.adapter_step import AdapterState, adapter_loss, make_step, with_vectors
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.training_texts import TextBatches
from v2l_jax.metrics.results import Scalar
from v2l_jax.ops.precision import EXACT
from v2l_jax.options import FLAG, POSITIVE, TEMPLATE, TEXT, number, option
from v2l_jax.parallel.mesh import local_rows, replicate
from v2l_jax.representations import caption
from v2l_jax.representations.base import Ids, ImageSet, Representation, Segments, Slots, Written
from v2l_jax.run.run import Run
from v2l_jax.training.checkpoints import Checkpointer
from v2l_jax.training.loop import fit
from v2l_jax.training.metric_log import MetricLog

Map = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Options of Frozen. An image is as many vectors as `slots` says, whatever the budget."""

    of_tower: ClassVar[bool] = True

    slots: int = option(2, "vectors an image; the paper tried 1, 2 and 4", POSITIVE)
    captions: str = option(
        "",
        "what is learnt: captions by image, as representation.caption.file; '' is the class names "
        "of labelled images, in `template`",
        TEXT,
    )
    template: str = option("a photo of a {}", "sentence that names a class", TEMPLATE)
    blind: bool = option(
        False,
        "the control: images are blacked out, and what can be learnt without seeing still is",
        FLAG,
    )
    steps: int = option(500, "training steps", POSITIVE)
    batch_size: int = option(128, "images a step", POSITIVE)
    learning_rate: float = option(3e-4, "constant, of Adam with moments .9, .95", number(0, 1))

    def fingerprint(self) -> dict[str, Scalar]:
        """The options; of captions also a digest of their file."""
        known = dataclasses.asdict(self)
        if self.captions:
            known |= {"captions": str(caption.Options(file=self.captions).fingerprint()["sha256"])}
        return known

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Trains the map on the run's training images, from the newest checkpoint, unless it is
        there.
        """
        del images, budget
        if not self._path(run).exists():
            _save(self._path(run), _trained(self, run, self._path(run).parent))

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The vectors of each image."""
        del budget
        learnt = read_safetensors(self._path(run))
        vectors = images.image_embeddings(run)
        vectors = np.zeros_like(vectors) if self.blind else vectors
        mapped = vectors @ np.asarray(learnt["kernel"]) + np.asarray(learnt["bias"])
        mapped = mapped.reshape(len(images), self.slots, -1)
        return Written(len(images), lambda index: (Slots(mapped[index]),))

    def shortest(self, budget: int) -> Segments:
        """As many places as there are vectors."""
        del budget
        return (Ids((0,) * self.slots),)

    def _path(self, run: Run) -> pathlib.Path:
        """Another language model, tower, seed or set of training images has another file."""
        config = run.config
        known = [self.fingerprint(), config.llm, config.tower, config.seed]
        known += [ImageSet(("train", run.photos.train))[i] for i in range(len(run.photos.train))]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
        return run.workdir / "frozen" / digest / "map.safetensors"


@dataclasses.dataclass(frozen=True)
class Captions:
    """Training texts: each the image's vectors and its caption.

    Attributes:
      rows: of each caption, its token ids with the end token.
      vectors: the tower's, of the same images.
      begin: token ids before an image.
      slots: ids that stand for an image's vectors.
    """

    rows: list[list[int]]
    vectors: Float[np.ndarray, "images dim"]
    begin: list[int]
    slots: list[int]

    def count(self, split: str) -> int:
        """Captions; there are no others to validate on."""
        del split
        return len(self.rows)

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """A batch of `frozen_loss`; all have one length."""
        del split, seed
        length = max(map(len, self.rows))
        before = [*self.begin, *self.slots]
        tokens = np.full((len(images), len(before) + length), -1, np.int32)
        targets = np.full((len(images), length), -1, np.int32)
        for place, image in enumerate(images):
            row = [*before, *self.rows[image]]
            tokens[place, : len(row)] = row
            targets[place, : len(row) - len(before)] = np.arange(len(before), len(row))
        return {"tokens": tokens, "targets": targets, "vectors": self.vectors[images]}


def init_map(key: jax.Array, dim: int, slots: int, embedding: Float[Array, "v hidden"]) -> Map:
    """A linear map whose vectors are spread as the embeddings of tokens are; so is its bias, for
    norms inside the language model have no useful gradient at zero, where the blind control is.
    """
    spread = jnp.std(embedding.astype(jnp.float32))
    kernel = spread * jax.random.normal(key, (dim, slots * embedding.shape[1]))
    bias = spread * jax.random.normal(jax.random.fold_in(key, 1), kernel.shape[1:])
    return {"kernel": kernel, "bias": bias}


def frozen_loss(model: Llama, params: Any, learnt: Map, batch: dict[str, Any]) -> Float[Array, ""]:
    """Mean −log p(caption token | image's vectors, tokens before it), in nats.

    Args:
      model, params: the frozen language model.
      learnt: what `init_map` made.
      batch: "tokens" and "targets" as in `adapter_step`, where the ids from the vocabulary's size
        on stand for an image's vectors in order; "vectors" float32 [batch, dim], the tower's.
    """
    vectors = jnp.dot(batch["vectors"], learnt["kernel"], precision=EXACT) + learnt["bias"]
    vectors = vectors.reshape(len(vectors), -1, model.config.hidden_size)
    own, tokens = with_vectors(
        params, jnp.asarray(batch["tokens"]), vectors, model.config.vocab_size
    )
    given = {"tokens": tokens, "targets": batch["targets"]}
    return adapter_loss(model, own, None, 1.0, given)


def _trained(options: Options, run: Run, folder: pathlib.Path) -> Map:
    texts, mesh, model = _texts(options, run), run.mesh, run.llm.model
    params = run.engine.params
    tx = optax.adam(options.learning_rate, b1=0.9, b2=0.95)
    start = init_map(
        jax.random.key(run.config.seed), texts.vectors.shape[1], options.slots, params["embedding"]
    )
    state = replicate(AdapterState(jnp.zeros((), jnp.int32), start, tx.init(start)), mesh)
    rows = local_rows(mesh, options.batch_size)
    with Checkpointer(folder / CHECKPOINTS) as checkpoints:
        state = fit(
            state,
            make_step(functools.partial(frozen_loss, model), tx),
            TextBatches(texts, options.batch_size, run.config.seed, rows),
            params,
            num_steps=options.steps,
            mesh=mesh,
            checkpointer=checkpoints,
            metric_log=MetricLog(folder, tensorboard=False),
            checkpoint_every=100,
            show=("loss",),
            description="training the vectors of images",
        )
    return jax.device_get(state.adapters)


def _texts(options: Options, run: Run) -> Captions:
    """The captions of the run's training images; those without one are left out.

    Raises:
      DataError: none has one.
    """
    photos, tokenizer = run.photos.train, run.llm.tokenizer
    paths, labels = ImageSet(("train", photos)), np.asarray(photos.labels)
    if options.captions:
        read = caption.Options(file=options.captions)
        known = {i: text for i in range(len(photos)) if (text := read.caption_of(paths[i]))}
    else:
        names = photos.class_names
        known = {
            int(i): options.template.format(names[labels[i]].replace("_", " "))
            for i in np.flatnonzero(labels >= 0)
        }
    if not known:
        raise DataError("no training image has a caption or a class to learn from")
    vectors = run.features("train", photos)[list(known)]
    ends = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    rows = [[*tokenizer.encode_inside(f" {text}"), *ends] for text in known.values()]
    size = run.llm.model.config.vocab_size
    return Captions(
        rows,
        np.zeros_like(vectors) if options.blind else vectors,
        tokenizer.encode_prompt(""),
        list(range(size, size + options.slots)),
    )


def _save(path: pathlib.Path, learnt: Map) -> None:
    arrays = {name: np.asarray(value, np.float32) for name, value in learnt.items()}
    with atomic_write(path) as draft:
        safetensors.numpy.save_file(arrays, draft)
