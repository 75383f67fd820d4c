"""Config → the frozen networks, photos and mesh that jobs work with."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2l_jax.assets import fetch as assets
from v2l_jax.assets import registry
from v2l_jax.data.sources import (
    Concatenated,
    ImageFolder,
    Remembered,
    Source,
    Subset,
    SyntheticSource,
    TfdsSource,
)
from v2l_jax.data.splits import split_held_out
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama, read_sizes
from v2l_jax.llm.text_tokenizers import TextTokenizer, check_fits, existing_ids, load_text_tokenizer
from v2l_jax.ops.batches import divisible, fill
from v2l_jax.ops.cpu_settings import cpu_has
from v2l_jax.ops.precision import type_named
from v2l_jax.parallel.mesh import make_mesh, replicate, shard_batch
from v2l_jax.towers.image_text import ImageTextTower, open_tower


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A frozen LLM, its parameters, its tokenizer, and what to call it."""

    name: str
    model: Llama
    params: Any
    tokenizer: TextTokenizer

    def engine(
        self, mesh: Mesh, token_budget: int, kind: Callable[..., LLMEngine] = LLMEngine
    ) -> LLMEngine:
        """The in-context engine over this model; `kind` makes it."""
        rows = self.model.config.vocab_size
        ids = existing_ids(self.tokenizer, rows)
        return kind(
            self.model,
            self.params,
            mesh=mesh if mesh.size > 1 else None,
            token_budget=token_budget,
            vocabulary=None if len(ids) == rows else ids,
        )


@dataclasses.dataclass(frozen=True)
class Photos:
    """The images of a run.

    Attributes:
      train: what the tokenizer trains on, the global codebook is filtered by, and shots are drawn
        from.
      held_out: what reconstruction is measured on and queries are drawn from; disjoint from
        `train`.
      skipped: (path, reason) of each file that could not be read.
      dataset: name for results.
      left_out: how many files were left out and why, a sentence a set of folders.
    """

    train: Source
    held_out: Source
    skipped: tuple[tuple[str, str], ...]
    dataset: str
    left_out: tuple[str, ...] = ()

    @property
    def labels_at_hand(self) -> bool:
        """Whether the labels of all images are known without reading the images."""
        return all(getattr(s, "labels_at_hand", True) for s in (self.train, self.held_out))


def mesh(config: ConfigDict) -> Mesh:
    """The devices that this process works on alone: all, or its own where several processes run the
    job.

    Then only their "tensor" axis is as in `config.mesh`, if it divides.
    """
    if jax.process_count() == 1:
        return shared_mesh(config)
    tensor = math.gcd(max(config.mesh.tensor, 1), jax.local_device_count())
    return make_mesh({"data": -1, "tensor": tensor}, jax.local_devices())


def shared_mesh(config: ConfigDict) -> Mesh:
    """The devices of all processes, arranged by `config.mesh`."""
    return make_mesh(dict(config.mesh))


def matmul_dtype(name: str) -> Any:
    """The type that an option names; "auto" is bfloat16 where the hardware multiplies it faster,
    else float32.
    """
    if name != "auto":
        return type_named(name)
    fast = jax.default_backend() != "cpu" or cpu_has("amx_bf16")
    return jnp.dtype(jnp.bfloat16 if fast else jnp.float32)


def locate(path: str) -> pathlib.Path:
    """A path, an hf:// address, or a registered asset with a folder inside it
    ("dogs-cats/training").
    """
    name, _, inside = path.partition("/")
    return assets.fetch(name) / inside if name in registry.ASSETS and inside else assets.fetch(path)


def language_model(config: ConfigDict) -> LanguageModel:
    """Loads `config.llm`, a registered asset, hf://organisation/model, or a local path, each leaf
    straight to its shards.
    """
    dtype, devices = matmul_dtype(config.llm_options.dtype), mesh(config)
    sizes, params = load_llama(locate(config.llm), dtype, devices if devices.size > 1 else None)
    tokenizer = text_tokenizer(config)
    check_fits(tokenizer, sizes.vocab_size, config.llm)
    return LanguageModel(config.llm, Llama(sizes, dtype), params, tokenizer)


def text_tokenizer(config: ConfigDict) -> TextTokenizer:
    """Loads the tokenizer of `config.llm` alone; once a process."""
    return _text_tokenizer(locate(config.llm_options.tokenizer or config.llm))


@functools.lru_cache(maxsize=2)
def _text_tokenizer(path: pathlib.Path) -> TextTokenizer:
    return load_text_tokenizer(path)


def context_length(config: ConfigDict) -> int:
    """The longest sequence of `config.llm`, in tokens, without loading its weights."""
    return _context_length(locate(config.llm))


@functools.lru_cache(maxsize=2)
def _context_length(path: pathlib.Path) -> int:
    return read_sizes(path).context_length


def image_text_tower(config: ConfigDict) -> ImageTextTower:
    """Loads `config.tower`; see `towers.image_text`. One of the hub is called by its repository."""
    dtype = matmul_dtype(config.tower_options.dtype)
    tower = open_tower(config.tower, config.tower_options, locate, dtype)
    _, hub, repository = config.tower.partition("hf://")
    return dataclasses.replace(tower, name=repository) if hub else tower


def photos(config: ConfigDict) -> Photos:
    """Opens the images of `config.data`, held-out ones apart; folders are scanned once a
    process.
    """
    return _photos(config.data.to_json(sort_keys=True), config.seed)


@functools.lru_cache(maxsize=4)
def _photos(data: str, seed: int) -> Photos:
    c = ConfigDict(json.loads(data))
    if c.kind == "synthetic":
        make = lambda seed: SyntheticSource(c.synthetic_length, c.synthetic_size, seed)
        return Photos(make(0), make(1), (), c.name)
    if c.kind == "tfds":
        fields = (c.get("tfds_image", "image"), c.get("tfds_label", "label"))
        train, held_out = (
            TfdsSource(c.name, split, c.tfds_dir or None, *fields)
            for split in (c.get("tfds_train", "train"), c.get("tfds_validation", "validation"))
        )
        return Photos(train, held_out, (), c.name)
    labelled = _folder(c.labelled, dict(c.rename_classes))
    kept, held_out = split_held_out(labelled.labels, c.held_out, seed, labelled.content_hashes)
    train: Source = Subset(labelled, kept)
    skipped, left_out = labelled.skipped, [labelled.left_out]
    if c.unlabelled:
        unlabelled = _folder(c.unlabelled, {}, labelled=False)
        train, skipped = Concatenated([train, unlabelled]), skipped + unlabelled.skipped
        left_out.append(unlabelled.left_out)
    if c.get("short_side"):
        train = Remembered(train, c.short_side)
    return Photos(train, Subset(labelled, held_out), skipped, c.name, tuple(filter(None, left_out)))


def report_photos(config: ConfigDict) -> ImageFolder | None:
    """Further pictures, for the report's eyes only."""
    return _folder(config.data.report, {}) if config.data.report else None


def _folder(paths: Sequence[str], rename: dict[str, str], labelled: bool = True) -> ImageFolder:
    return ImageFolder([locate(path) for path in paths], rename=rename or None, labelled=labelled)


def encode_images(
    tower: ImageTextTower, source: Source, batch_size: int, description: str, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Looks at all images of a source, on all devices of a mesh.

    Returns:
      "vectors", the tower's, float32 [images, dim]; "labels", int64 [images].
    """
    from v2l_jax.data.loader import make_loader
    from v2l_jax.progress import progress_bar

    encode = jax.jit(tower.encode_image)
    params = replicate(tower.params, mesh)
    batch_size = divisible(batch_size, mesh)
    loader = make_loader(
        source,
        _Preprocess(tower.preprocess),
        batch_size,
        seed=0,
        shuffle=False,
        num_epochs=1,
        drop_remainder=False,
    )
    rows, labels = [], []
    for batch in progress_bar(loader, description, "batch", total=-(-len(source) // batch_size)):
        images, count = fill(batch["image"], batch_size)
        rows.append(np.asarray(encode(params, shard_batch(images, mesh)))[:count])
        labels.append(batch["label"])
    vectors = np.concatenate(rows)
    if not np.isfinite(vectors).all():
        raise DataError(
            f"{description}: the tower {tower.name} gives vectors that are not finite for "
            f"{int((~np.isfinite(vectors)).any(1).sum())} of {len(vectors)} images; its weights "
            "may be damaged, or a fast type overflows: try --config.tower_options.dtype=float32"
        )
    return {"vectors": vectors, "labels": np.concatenate(labels).astype(np.int64)}


@dataclasses.dataclass(frozen=True)
class _Preprocess:
    preprocess: Any

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        del rng
        return {"image": self.preprocess(record["image"]), "label": np.asarray(record["label"])}
