"""Objects of an image as text, `name top left bottom right;` in bins of the image's sides, after
Pix2Seq (Chen et al. 2021, arXiv 2109.10852): training texts with made-up objects, and what was
written read back.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from v2l_jax.data.boxes import Objects
from v2l_jax.errors import DataError
from v2l_jax.llm.grammar import Grammar, repeated
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.tasks.harness.prompts import answer_ids

NOISE = "noise"
"""What a box is called that holds no object."""
_JITTER = 0.1  # of a box's sides: the standard deviation of Pix2Seq's duplicates is half of it

Predicted = tuple[int, Float[np.ndarray, " 4"], float, float]
"""Class, box (left, top, right, bottom) in pixels, log-likelihood of the class, and the mean one of
all its tokens.
"""


@dataclasses.dataclass(frozen=True)
class ObjectText:
    """How objects become tokens.

    Attributes:
      tokenizer: the language model's.
      names: of the classes.
      bins: places of a coordinate along a side of the image.
      objects: written of each image, real and made up.
      noise: whether texts are filled up with made-up objects; else they end after the last.
    """

    tokenizer: TextTokenizer
    names: tuple[str, ...]
    bins: int
    objects: int
    noise: bool

    def __post_init__(self):
        if self.noise and NOISE in self.names:
            raise DataError(
                f"a class is called {NOISE!r}, which stands for boxes without an object; rename it"
            )

    def name_ids(self, name: str) -> list[int]:
        """Tokens of a class."""
        return answer_ids(self.tokenizer, name)

    @functools.cached_property
    def places_ids(self) -> list[list[int]]:
        """Tokens of each coordinate: a number of as many digits as all have."""
        digits = len(str(self.bins - 1))
        return [answer_ids(self.tokenizer, f"{place:0{digits}d}") for place in range(self.bins)]

    def grammar(self) -> Grammar:
        """What may be written; of real classes only."""
        names = [self.name_ids(name) for name in self.names]
        ends = () if self.noise else (self.tokenizer.eos_id,)
        return repeated([names, *[self.places_ids] * 4, [self.semicolon]], ends)

    @functools.cached_property
    def semicolon(self) -> list[int]:
        """Tokens of what ends an object."""
        return self.tokenizer.encode_inside(";")

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of the longest text of all objects."""
        names = [*self.names, NOISE] if self.noise else self.names
        place = max(map(len, self.places_ids))
        one = max(len(self.name_ids(name)) for name in names) + 4 * place + len(self.semicolon)
        return self.objects * one + (not self.noise)

    def places(self, box: Float[np.ndarray, " 4"], size: tuple[int, int]) -> list[int]:
        """(top, left, bottom, right) of a box (left, top, right, bottom) in pixels, as bins of the
        image's (height, width).
        """
        height, width = size
        shares = (box[1] / height, box[0] / width, box[3] / height, box[2] / width)
        return [round(min(max(share, 0.0), 1.0) * (self.bins - 1)) for share in shares]

    def box(self, places: Sequence[int], size: tuple[int, int]) -> Float[np.ndarray, " 4"]:
        """The inverse of `places`; corners that are the wrong way round are exchanged."""
        top, left, bottom, right = (place / (self.bins - 1) for place in places)
        height, width = size
        return np.asarray(
            [
                min(left, right) * width,
                min(top, bottom) * height,
                max(left, right) * width,
                max(top, bottom) * height,
            ]
        )

    def training_text(
        self, one: Objects, rng: np.random.Generator
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The objects of an image in an order of their own, then made-up ones.

        Of a made-up object only the class counts, which shall be predicted to be no object; what
        stands in its place is a class of the images half of the time, as the model will read at
        inference.

        Returns:
          Token ids, and (place in them, token to predict) of each that counts.
        """
        ids: list[int] = []
        targets: list[tuple[int, int]] = []
        order = rng.permutation(len(one.classes))[: self.objects]
        for i in order:
            start = len(ids)
            ids += self.name_ids(self.names[one.classes[i]])
            for place in self.places(one.boxes[i], one.size):
                ids += self.places_ids[place]
            ids += self.semicolon
            targets += [(at, ids[at]) for at in range(start, len(ids))]
        if not self.noise:
            ids.append(self.tokenizer.eos_id)
            return ids, [*targets, (len(ids) - 1, ids[-1])]
        for box in made_up(one, self.objects - len(order), rng):
            targets.append((len(ids), self.name_ids(NOISE)[0]))
            shown = NOISE if rng.random() < 0.5 else self.names[rng.integers(len(self.names))]
            ids += self.name_ids(shown)
            for place in self.places(box, one.size):
                ids += self.places_ids[place]
            ids += self.semicolon
        return ids, targets

    def read(
        self, ids: Sequence[int], found: Float[np.ndarray, " tokens"], size: tuple[int, int]
    ) -> list[Predicted]:
        """The objects that were written, of which one that was cut off is left out."""
        names, places, ends = self._fields
        objects: list[Predicted] = []
        at = 0
        while len(objects) < self.objects:
            start, values, name_end = at, [], at
            for field in (names, places, places, places, places, ends):
                length = _whole(ids, at, field)
                if length is None:
                    return objects
                values.append(field[tuple(ids[at : at + length])])
                at += length
                name_end = at if len(values) == 1 else name_end
            likely = float(np.sum(found[start:name_end]))
            whole = float(np.mean(found[start:at]))
            objects.append((values[0], self.box(values[1:5], size), likely, whole))
        return objects

    @functools.cached_property
    def _fields(self) -> tuple[dict[tuple[int, ...], int], ...]:
        """What each sequence of tokens means: as a class, as a coordinate, as an end."""
        names = {tuple(self.name_ids(name)): label for label, name in enumerate(self.names)}
        places = {tuple(ids): place for place, ids in enumerate(self.places_ids)}
        return names, places, {tuple(self.semicolon): 0}


def _whole(ids: Sequence[int], at: int, known: Mapping[tuple[int, ...], int]) -> int | None:
    """How many tokens from `at` on are one of the known sequences, none of which begins another."""
    lengths = sorted({len(sequence) for sequence in known})
    return next((n for n in lengths if tuple(ids[at : at + n]) in known), None)


def made_up(one: Objects, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 4"]:
    """Boxes without an object, as Pix2Seq makes them: some are real ones moved a little, of the
    others half are real ones moved anywhere and half of any place and size.
    """
    height, width = one.size
    sides = np.asarray([width, height, width, height], np.float64)
    copies = rng.integers(0, count + 1) if len(one.boxes) else 0
    shifted = (count - copies) // 2 if len(one.boxes) else 0
    rows = []
    for i in range(count):
        if i < copies + shifted:
            box = one.boxes[rng.integers(len(one.boxes))]
            extent = np.asarray([box[2] - box[0], box[3] - box[1]])
            if i < copies:
                moved = np.clip(rng.normal(0, _JITTER / 2, 4), -_JITTER, _JITTER)
                rows.append(box + moved * np.tile(extent, 2))
            else:
                corner = rng.uniform(0, np.maximum(sides[:2] - extent, 0))
                rows.append(np.concatenate([corner, corner + extent]))
        else:
            extent = np.clip(np.abs(rng.normal(0, 0.5, 2)), 0, 1) * sides[:2]
            centre = rng.uniform(0, sides[:2])
            rows.append(np.concatenate([centre - extent / 2, centre + extent / 2]))
    return np.clip(np.asarray(rows).reshape(-1, 4), 0, sides)


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionTexts:
    """Prompts with the objects of their images; see `llm.training_texts.TrainingTexts`.

    Attributes:
      rows: by split, (number of the image, token ids of its prompt, its objects).
      how: the objects' text.
      features: as of `AnswerTexts`.
    """

    rows: Mapping[str, Sequence[tuple[int, Sequence[int], Objects]]]
    how: ObjectText
    features: np.ndarray | None = None

    @functools.cached_property
    def length(self) -> int:
        """Tokens of the longest text."""
        prompts = [len(prompt) for rows in self.rows.values() for _, prompt, _ in rows]
        return max(prompts) + self.how.longest

    def checked(self, context_length: int) -> "DetectionTexts":
        """Itself; raises DataError where a text does not fit the model's context."""
        if self.length > context_length:
            raise DataError(
                f"a text of {self.how.objects} objects has {self.length} tokens, but the language "
                f"model's context {context_length}; write less of an image, or fewer objects"
            )
        return self

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self.rows[split])

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """See `TrainingTexts`; order and made-up objects are drawn anew."""
        length, most = self.length, self.how.longest
        tokens = np.full((len(images), length), -1, np.int32)
        targets = np.full((len(images), most), -1, np.int32)
        labels = np.zeros((len(images), most), np.int32)
        shown = [self.rows[split][i] for i in images]
        for row, (_, prompt, objects) in enumerate(shown):
            ids, counted = self.how.training_text(objects, np.random.default_rng((*seed, row)))
            whole = [*prompt, *ids]
            tokens[row, : len(whole)] = whole
            targets[row, : len(counted)] = [len(prompt) + at for at, _ in counted]
            labels[row, : len(counted)] = [label for _, label in counted]
        batch = {"tokens": tokens, "targets": targets, "labels": labels}
        if self.features is not None:
            chosen = self.features[[image for image, _, _ in shown]]
            batch["features"] = np.asarray(chosen, np.float32)
        return batch
