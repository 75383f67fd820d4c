"""What every visual tokenizer offers. The trainer, the jobs and the reconstruction task know a
tokenizer by this interface alone.

A tokenizer is one file of this package with a frozen dataclass that derives from `VisualTokenizer`
and

  WORDS     the codebooks of words that it is made over: names out of "local" and "global";
  make(model, train, words, dtype)   the tokenizer of `config.model` and `config.train`, whose
            entries are read as attributes; `words` holds the vectors [entries, dim] of each
            codebook in WORDS (arrays, or anything with a shape), `dtype` is the type of
            convolutions and matrix products;
  word_vectors(model)   where the vectors of "local" may be others than the tower's: their kind, and
            whether they are scaled, for `run.word_vectors`;
  check(model)   where it has one: raises ConfigError for options that cannot be together;
  Options   where it has options of its own: a dataclass; `config.model.<file>` holds them.

`config.model.kind` is the file's name; there is no list to extend.
"""

import abc
import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.typing import Dtype
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError

Variables = dict[str, Any]
"""Collections of arrays by name: "params" trains; "frozen" never changes; "memory", where there is
one, is what a tokenizer remembers from step to step besides its parameters.
"""
Batch = Mapping[str, Any]
"""Arrays by name, one row an image: "image" float32 [b, h, w, 3] in [-1, 1], and what else
`VisualTokenizer.input_shapes` names.
"""
TokenStreams = dict[str, Int[Any, "batch ..."]]
"""Token ids by stream: {"local": int32 [b, h, w], …}."""


@struct.dataclass
class TrainOutput:
    """What a training forward pass gives.

    Attributes:
      image: float32 [batch, height, width, 3], about [-1, 1], not clipped.
      last_features: input of `VisualTokenizer.to_image`, the layer that holds `last_kernel`.
      losses: the tokenizer's own losses by name, float32 scalars; `loss_weights` says how much each
        counts.
      tokens: the ids that the images became.
    """

    image: Float[Any, "batch height width 3"]
    last_features: Float[Any, "batch _ _ c"]
    losses: dict[str, Float[Any, ""]]
    tokens: TokenStreams


@dataclasses.dataclass(frozen=True)
class VisualTokenizer(abc.ABC):
    """A network that turns images into token ids and back; its fields are its options.

    Attributes:
      last_kernel: path within "params" of the kernel that the adaptive weight of the GAN looks at.
      encoder_parameters: regular expression on "/"-joined paths within "params": the parameters
        that choose the tokens, which `train.encoder_start` can hold back.
      counted_streams: streams whose ids, taken together, say how much of one codebook is in use.
    """

    last_kernel = ("conv_out", "kernel")
    encoder_parameters = "^encoder"
    counted_streams = ("local",)

    @property
    @abc.abstractmethod
    def codebooks(self) -> Mapping[str, int]:
        """Entries of the codebook behind each token stream."""

    @property
    def choices(self) -> Mapping[str, int]:
        """Values that one id of each stream can have: those of the codebook, unless it is several
        side by side.
        """
        return self.codebooks

    @property
    def decoded_streams(self) -> tuple[str, ...]:
        """Streams that `decode` looks at; all by default."""
        return tuple(self.codebooks)

    @property
    @abc.abstractmethod
    def dtype(self) -> Dtype:
        """Type of convolutions and matrix products."""

    @property
    @abc.abstractmethod
    def loss_weights(self) -> Mapping[str, float]:
        """How much each of `TrainOutput.losses` counts, in the order in which they are added."""

    @abc.abstractmethod
    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Variables before training: "params" and, where there is one, "memory"."""

    @abc.abstractmethod
    def train_forward(
        self, variables: Variables, batch: Batch, *, step: jax.Array, key: jax.Array
    ) -> TrainOutput:
        """Encodes, quantizes and decodes, with what the losses need.

        Args:
          variables: all collections.
          batch: images and what belongs to them.
          step: int32 scalar, training steps done.
          key: PRNG key of this step.
        """

    @abc.abstractmethod
    def encode(self, variables: Variables, batch: Batch) -> TokenStreams:
        """Token ids of images."""

    @abc.abstractmethod
    def decode(self, variables: Variables, tokens: TokenStreams) -> Float[Array, "b h w 3"]:
        """Images of token ids, float32, about [-1, 1], not clipped."""

    @abc.abstractmethod
    def to_image(
        self, variables: Variables, last_features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w 3"]:
        """The layer that holds `last_kernel`, from `TrainOutput.last_features` to the image."""

    @abc.abstractmethod
    def on_mesh(self, mesh: Mesh | None) -> "VisualTokenizer":
        """The same tokenizer, whose search for codebook entries is shared by a mesh's devices."""

    @abc.abstractmethod
    def with_dtype(self, dtype: Dtype) -> "VisualTokenizer":
        """The same tokenizer with another `dtype`."""

    @property
    def word_streams(self) -> Mapping[str, str]:
        """Of streams whose ids are rows of a codebook in WORDS, which; none by default."""
        return {}

    def texts_of(self, ids: Int[Any, " ids"]) -> str | None:
        """What ids say in a vocabulary of the tokenizer's own; None where it has none."""
        del ids
        return None

    def frozen(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """The "frozen" collection, from the vectors of the codebooks in the file's WORDS: arrays,
        or shapes.
        """
        del words
        return {}

    def input_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each array that a batch must have."""
        return {"image": (image_size, image_size, 3)}

    def reconstruct(
        self, variables: Variables, batch: Batch
    ) -> tuple[Float[Array, "b h w 3"], TokenStreams]:
        """What images come back as, and the ids in between."""
        tokens = self.encode(variables, batch)
        return self.decode(variables, tokens), tokens

    def after_update(
        self,
        variables: Variables,
        batch: Batch,
        tokens: TokenStreams,
        step: jax.Array,
        parts: int = 1,
    ) -> Variables:
        """What changes beside the gradient's update, once a step and after it; nothing by default.

        Args:
          variables: all collections, updated by the gradient.
          batch: the step's whole batch.
          tokens: its ids, as chosen before the update.
          step: int32 scalar, training steps done before this one.
          parts: a batch is taken in so many parts where its activations do not fit at once.

        Returns:
          All collections; "params" and "memory" are kept.
        """
        del batch, tokens, step, parts
        return variables

    def pretrained(self, path: str, codebooks: Mapping[str, Codebook]) -> dict[str, Any]:
        """The "params" to start training from.

        Args:
          path: what `train.start_from` says.
          codebooks: the run's codebooks, those in the file's WORDS.

        Raises:
          CheckpointError: the files are missing or damaged.
          ConfigError: they are of another tokenizer, or this kind reads none.
        """
        del path, codebooks
        raise ConfigError(f"{type(self).__name__} cannot start from files; set train.start_from ''")

    def save(
        self,
        folder: pathlib.Path,
        params: Any,
        codebooks: Mapping[str, Codebook],
        *,
        image_size: int,
        name: str,
        dtype: str,
    ) -> None:
        """Writes the files that `tokenizers.load_tokenizer` reads.

        Args:
          folder: made if missing.
          params: what was trained.
          codebooks: as in `pretrained`.
          image_size: side of the images that it was trained on.
          name: what it is called.
          dtype: of the stored numbers.

        Raises:
          CheckpointError: a number is not finite, or too large for `dtype`.
          ConfigError: this kind has no such files.
        """
        raise ConfigError(f"{type(self).__name__} cannot be released; leave that job out")

    def used_entries(self, tokens: TokenStreams) -> Float[Array, " entries"]:
        """1 for each codebook entry that an id of the counted streams names, 0 for the others."""
        used = jnp.zeros(self.codebooks[self.counted_streams[0]])
        for stream in self.counted_streams:
            used = used.at[tokens[stream].ravel()].set(1.0)
        return used


def kinds() -> list[str]:
    """The names that `config.model.kind` can have: the files of this package with a `make`."""
    package = importlib.import_module(__package__)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name for name in names if hasattr(_module(name), "make")]


def kind_module(kind: str) -> ModuleType:
    """The file of a kind.

    Raises:
      ConfigError: there is no such kind; says which there are.
    """
    if kind not in kinds():
        raise ConfigError(f"config.model.kind is {kind!r}, but must be one of {', '.join(kinds())}")
    return _module(kind)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")
