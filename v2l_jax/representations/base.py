"""What a representation offers, and the segments that it writes an image as."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from v2l_jax.data.sources import Source, path_of
from v2l_jax.metrics.results import Scalar
from v2l_jax.report.data import Gallery
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text. Neighbouring texts are joined before they are split into tokens."""

    text: str


@dataclasses.dataclass(frozen=True)
class Ids:
    """Token ids of the language model, which no tokenizer splits again.

    Attributes:
      ids: also of new rows.
      text: what a reader of a report sees; "" is what the ids decode to.
    """

    ids: tuple[int, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Slots:
    """Vectors that stand where embeddings of tokens would.

    Attributes:
      vectors: of the size of the language model's embedding.
    """

    vectors: Float[Any, "slots hidden"]


Segment = Text | Ids | Slots
Segments = tuple[Segment, ...]


class ImageSet(Sequence[str]):
    """Images that a task shows, in a fixed order; its items are their paths.

    Attributes:
      parts: (name, images) of each source, one after another. "train" and "held_out" are the run's
        own images; files in the workdir are named after the part.
    """

    def __init__(self, *parts: tuple[str, Source]):
        self.parts = parts
        self._ends = list(itertools.accumulate(len(images) for _, images in parts))

    @classmethod
    def own(cls, run: Run) -> "ImageSet":
        """The run's own images: those trained on, then the others."""
        return cls(("train", run.photos.train), ("held_out", run.photos.held_out))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> str:
        """The path of an image, or what else its source calls it."""
        part = bisect.bisect_right(self._ends, index)
        return path_of(self.parts[part][1], index - (self._ends[part - 1] if part else 0))

    def image_embeddings(self, run: Run) -> Float[np.ndarray, "images dim"]:
        """The tower's unit vectors of all images."""
        return np.concatenate([run.features(name, images) for name, images in self.parts])


class Written(Sequence[Segments]):
    """The segments of every image of a set, each made when it is asked for."""

    def __init__(self, count: int, write: Callable[[int], Segments]):
        self._count, self._write = count, write

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Segments:
        return self._write(range(self._count)[index])

    def __iter__(self) -> Iterator[Segments]:
        return map(self._write, range(self._count))


class Representation:
    """How an image is written for a language model.

    Subclasses are frozen dataclasses whose fields, declared with `option`, are their options.
    """

    def fingerprint(self) -> dict[str, Scalar]:
        """Fields that tell rows of this representation from rows of others; its options by
        default.
        """
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Does, once, the work that can be kept in the workdir; nothing by default.

        Args:
          run: networks, images and folder.
          images: what will be written.
          budget: as for `segments`.
        """

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The images as a prompt shows them.

        Args:
          run: networks, images and folder.
          images: what is written.
          budget: how much may be written of an image: words, or what else the representation
            counts in. A representation of fixed length need not look at it.

        Returns:
          For each image, in order, its segments; none where nothing tells of the image.
        """
        raise NotImplementedError

    def shortest(self, budget: int) -> Segments:
        """An image as short as it can be written, for what is checked before anything runs; its
        ids stand for any. Nothing by default, where the length is not known beforehand.

        Args:
          budget: as for `segments`.
        """
        del budget
        return ()

    def content(self, images: ImageSet) -> Int[np.ndarray, " images"] | None:
        """For each image, the number of the one whose content its segments tell of: itself, but for
        controls; None where segments tell nothing of any image.
        """
        return np.arange(len(images))

    def new_rows(self, run: Run) -> Float[np.ndarray, "rows hidden"] | None:
        """Rows that the language model's embedding needs besides its own, as they start; none by
        default. The first one is of the id after the model's last.
        """
        del run
        return None

    of_tower: ClassVar[bool] = False
    """Whether the run's image–text tower says how images are written."""

    summary_names: ClassVar[tuple[str, ...]] = ()
    """What `summaries` has."""

    def summaries(self, run: Run, images: ImageSet) -> dict[str, Float[np.ndarray, "images _"]]:
        """Vectors of each image that a linear probe can read, by name: what the representation
        holds without a language model.
        """
        del run, images
        return {}

    def row_names(self) -> Sequence[str]:
        """What the rows of `new_rows` are called as tokens, in order."""
        return ()

    def tokenize_seconds(self, run: Run, images: ImageSet) -> float | None:
        """What writing a thousand of these images took, in seconds; None where it is not known."""
        del run, images
        return None

    def galleries(self, run: Run) -> list[Gallery]:
        """Pictures for the page of how images are written; none by default."""
        del run
        return []

    def places(
        self, run: Run, images: ImageSet
    ) -> tuple[tuple[int, int], list[list[tuple[int, ...]]], str] | None:
        """Which patches each written word stands for: rows and columns of the grid, numbers of the
        patches of every word of every image, and how images become squares; None where words do
        not lie anywhere, or nothing is written yet.
        """
        del run, images
        return None

    def features(self, run: Run, images: ImageSet) -> Float[np.ndarray, "images inputs dim"] | None:
        """What a trained network turns into vectors, for every image; None where there is no such
        network.
        """
        del run, images
        return None

    def vector_count(self, features: Float[np.ndarray, "images inputs dim"]) -> int:
        """How many vectors that network makes of an image's features; by default, one of each."""
        return features.shape[1]

    def init_adapter(self, key: Any, run: Run) -> dict[str, Any] | None:
        """Fresh parameters of `llm.connector`, which turns `features` into vectors; None where
        there is no such network.
        """
        del key, run
        return None


def shown_text(segments: Segments, decode: Callable[[Sequence[int]], str]) -> str:
    """Segments as a reader of a report sees them; vectors by their number.

    Args:
      segments: of an image or of a whole prompt.
      decode: token ids → text.
    """
    written = {
        Text: lambda s: s.text,
        Ids: lambda s: s.text or decode(s.ids),
        Slots: lambda s: f"[{len(s.vectors)} vectors]",
    }
    return "".join(written[type(segment)](segment) for segment in segments)
