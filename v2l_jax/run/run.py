"""A run as its jobs see it: photos, networks, words and files, each loaded when it is first
needed.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.sources import Source
from v2l_jax.errors import ConfigError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.shared_engine import SharedEngine
from v2l_jax.metrics.results import Result, Scalar, merge_results
from v2l_jax.ops.batches import in_batches
from v2l_jax.ops.nearest import nearest_rows
from v2l_jax.run import building, features, loading, paths
from v2l_jax.run.tokens import SPLITS, read_tokens
from v2l_jax.tokenizers.base import TokenStreams, VisualTokenizer
from v2l_jax.towers.image_text import ImageTextTower

_IMAGES_A_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Run:
    """A config and the folder of its run; everything else is loaded on first use and kept.

    Attributes:
      config: the whole experiment.
      workdir: the run's folder.
      identify: gives the fields that say what a task's rows depend on; see `jobs.identity`.
      together: whether the job's other processes serve this one's engine (`llm.shared_engine`).
      model: what they call its language model; "" is the config's own.
    """

    config: ConfigDict
    workdir: pathlib.Path
    identify: Callable[[str], Mapping[str, Scalar]] = lambda task: {}
    together: bool = False
    model: str = ""

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices."""
        return loading.mesh(self.config)

    @functools.cached_property
    def photos(self) -> loading.Photos:
        """The run's images, held-out ones apart, with the labels that an earlier job has seen."""
        photos = loading.photos(self.config)
        for split in SPLITS:
            features.recall_labels(self.workdir, split, getattr(photos, split))
        return photos

    @functools.cached_property
    def llm(self) -> loading.LanguageModel:
        """The frozen language model."""
        return loading.language_model(self.config)

    @functools.cached_property
    def engine(self) -> LLMEngine:
        """The in-context engine over the language model."""
        budget, processes = self.config.llm_options.token_budget, jax.process_count()
        if self.together and processes > 1:
            shared = functools.partial(SharedEngine, processes=processes, name=self.model)
            return self.llm.engine(self.mesh, budget, shared)
        return self.llm.engine(self.mesh, budget)

    @functools.cached_property
    def tower(self) -> ImageTextTower:
        """The image-text tower that made the codebooks.

        Raises:
          ConfigError: the codebooks are another tower's.
        """
        tower = loading.image_text_tower(self.config)
        if self.global_words.tower not in (tower.name, *self._earlier_tower_names()):
            raise ConfigError(
                f"the codebooks in {self.workdir} were made with the tower "
                f"{self.global_words.tower}, not {tower.name}; "
                "name another --workdir"
            )
        return tower

    def _earlier_tower_names(self) -> Iterator[str]:
        """What earlier versions called a tower of the hub: the folder of its commit."""
        address = self.config.tower.partition(":")[2]
        if address.startswith("hf://"):
            yield loading.locate(address).name

    @functools.cached_property
    def local_words(self) -> Codebook:
        """The local codebook, checked to be in this language model's tokens."""
        return self._codebook(paths.local_path(self.workdir))

    @functools.cached_property
    def global_words(self) -> Codebook:
        """The global codebook, checked to be in this language model's tokens."""
        return self._codebook(paths.global_path(self.workdir))

    @functools.cached_property
    def candidates(self) -> Codebook:
        """The words that the global codebook was chosen from, checked like it."""
        return self._codebook(paths.candidates_path(self.workdir))

    @functools.cached_property
    def tokenizer(self) -> VisualTokenizer:
        """The config's tokenizer over the run's codebooks; its weights are in `trained`."""
        books = building.codebooks(self.config, self.workdir)
        return building.tokenizer(self.config, building.vectors(books))

    @functools.cached_property
    def trained(self) -> building.TrainedTokenizer:
        """The trained tokenizer: model, variables on every device, and codebooks."""
        return building.trained_tokenizer(
            self.config, self.workdir, len(self.photos.train), self.mesh
        )

    @functools.cached_property
    def lpips(self) -> Any:
        """LPIPS parameters, or None where `train.perceptual` names none."""
        return building.lpips_params(self.config)

    def features(self, name: str, source: Source) -> Float[np.ndarray, "images dim"]:
        """The tower's unit vectors of all images of a source, kept in the workdir.

        Args:
          name: "train" and "held_out" are the run's own photos; another name may stand for other
            images in another run of a task, so its file is also keyed by them.
          source: the images.
        """
        return features.cached(self.config, self.workdir, self.file_name(name, source), source)

    def file_name(self, name: str, source: Source) -> str:
        """What files about a source are called: its name, and for images that are not the run's own
        a digest of their paths.
        """
        if name in SPLITS:
            return name
        known = getattr(source, "paths", None)
        paths = known or [source[i]["path"] for i in range(len(source))]
        return f"{name}-{hashlib.sha256(json.dumps(list(paths)).encode()).hexdigest()[:12]}"

    def split_features(self, split: str) -> Float[np.ndarray, "images dim"]:
        """The tower's unit vectors of the run's own photos; `split` is "train" or "held_out"."""
        return self.features(split, getattr(self.photos, split))

    def nearest_ids(
        self, vectors: Float[np.ndarray, "images dim"], k: int, book: Codebook | None = None
    ) -> np.ndarray:
        """Rows of a codebook, the global one by default, nearest to each image vector: int32
        [images, k], nearest first.
        """
        table = jnp.asarray((book or self.global_words).embeddings)
        return in_batches(lambda part: nearest_rows(part, table, k), vectors, size=_IMAGES_A_BATCH)

    def tokens(self, split: str) -> TokenStreams:
        """The token ids of a split as the tokenize job left them, by stream."""
        return read_tokens(self.workdir, split)

    def has_tokens(self, split: str) -> bool:
        """Whether `tokens` has something to read."""
        return split in SPLITS and paths.tokens_path(self.workdir, split).exists()

    def folder(self, task: str) -> pathlib.Path:
        """Where a task keeps pictures and examples for the report; made if it is not there."""
        path = self.workdir / "evaluate" / task
        path.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, task: str, setting: Mapping[str, Scalar], results: Sequence[Result]) -> None:
        """Writes one row set to results.json, and logs it.

        Every row gets the task, the setting, the language model, the tower and the dataset; what a
        row says of itself stands.
        """
        common = {
            "task": task,
            "llm": self.config.llm,
            "tower": self.global_words.tower if self._has_words else self.config.tower,
            "dataset": self.config.data.name,
            **self.identify(task),
            **setting,
        }
        rows = [
            dataclasses.replace(result, measured_on=common | dict(result.measured_on))
            for result in results
        ]
        for row in rows:
            interval = (
                ""
                if row.ci95 is None
                else f" (95 % interval {row.ci95[0]:.4g} to {row.ci95[1]:.4g})"
            )
            shown = ", ".join(f"{key} {value}" for key, value in setting.items())
            logging.info(
                "%s, %s: %s %.4g%s, n = %d", task, shown, row.metric, row.value, interval, row.count
            )
        key = json.dumps({"llm": self.config.llm, **setting}, sort_keys=True, default=str)
        merge_results(self.workdir / "results.json", rows, f"evaluate/{task}/{key}")

    @property
    def _has_words(self) -> bool:
        """Whether the codebook job has run; a tokenizer that learns its codebook needs none."""
        return paths.global_path(self.workdir).exists()

    def _codebook(self, path: pathlib.Path) -> Codebook:
        book = Codebook.load(path)
        book.check_made_for(loading.text_tokenizer(self.config).fingerprint)
        return book
