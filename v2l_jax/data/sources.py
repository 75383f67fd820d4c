"""Where images come from: random-access sources of records {"image", "label", "path"}.

A record's image is uint8 [height, width, 3] in RGB, its label an index into `class_names` (-1 where
the source has no classes), its path what to call it in a report. Every source fits Grain's
RandomAccessDataSource.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from absl import logging

from v2l_jax.data.image_files import (
    BROKEN_LINKS,
    EMPTY,
    LOOSE,
    NOT_READ,
    UNREADABLE,
    Found,
    composed,
    find_images,
    in_words,
)
from v2l_jax.data.images import CorruptImageError, decode_image
from v2l_jax.data.transforms import shrink
from v2l_jax.errors import DataError
from v2l_jax.progress import progress_bar

Record = dict[str, Any]
StrPath = str | os.PathLike


@runtime_checkable
class Source(Protocol):
    """Random access to labelled images. All sources of this module also have `labels`, an int
    array.

    Attributes:
      class_names: what each label means.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    if TYPE_CHECKING:
        # Hidden from isinstance, which would read it: a whole split, for some sources.
        @property
        def labels(self) -> Any: ...


class ImageFolder:
    """Image files under one or several folders; a sub-folder is a class, its name the class name.

    A root that holds images but no class folders is a flat photo set: label -1, class name "".
    Links are followed. Unless `verify` is off, every file is read and decoded once, in parallel:
    corrupt files are left out, and of files with identical bytes the first (in path order) stays.
    Whatever is left out is counted in one warning. Nothing is written.

    Attributes:
      class_names: sorted class names; empty for flat sets.
      labels: class index of each record, -1 where there is no class.
      paths: file of each record.
      content_hashes: sha256 of each file (empty without `verify`).
      skipped: (path, reason) of each corrupt file.
      duplicates: (path, the path it repeats) of each dropped copy.
      left_out: how many files were left out for each other reason, in words, and corrupt ones and
        copies; "" where none was.
    """

    def __init__(
        self,
        roots: StrPath | Sequence[StrPath],
        classes: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        verify: bool = True,
        threads: int = 4,
        labelled: bool = True,
    ):
        """Scans the folders.

        Args:
          roots: one folder, or several whose classes are merged by name.
          classes: keep only these classes (names after renaming).
          rename: folder name → class name, for example {"dogs": "dog"}; others keep their name.
          verify: decode every file now; False for sets too large to read twice: the loader then
            replaces corrupt files as it meets them, and duplicates stay.
          threads: how many files are read at a time.
          labelled: False: sub-folders mean nothing, all images below a root are one flat set.

        Raises:
          DataError: a folder does not exist, a class named has no images, or nothing readable is
            left.
        """
        self._roots = [
            pathlib.Path(r) for r in ([roots] if isinstance(roots, str | os.PathLike) else roots)
        ]
        scans = [find_images(root, rename or {}, labelled) for root in self._roots]
        found = [pair for scan in scans for pair in scan.images]
        if classes is not None:
            wanted = set(map(composed, classes))
            found = [(path, name) for path, name in found if name in wanted]
            if missing := sorted(wanted - {name for _, name in found}):
                raise DataError(
                    f"no images of class {', '.join(missing)} in {self._where()}; check the "
                    "folder names"
                )
        if not found:
            raise DataError(
                f"no images in {self._where()}: looked for .bmp .gif .jpeg .jpg .png .tiff .webp "
                "files in it and its sub-folders, and for what else Pillow opens"
            )
        self.skipped: tuple[tuple[str, str], ...] = ()
        self.duplicates: tuple[tuple[str, str], ...] = ()
        self.content_hashes: tuple[str, ...] = ()
        self._other_class: list[str] = []
        count = len(found)
        if verify:
            found = self._verify(found, threads)
        self.left_out = self._say(scans, count)
        if not found:
            raise DataError(
                f"none of the {len(self.skipped)} images in {self._where()} can be read; replace "
                "them"
            )
        self.paths = tuple(str(path) for path, _ in found)
        self.class_names = tuple(sorted({name for _, name in found if name}))
        index_of = {name: i for i, name in enumerate(self.class_names)} | {"": -1}
        self.labels = np.array([index_of[name] for _, name in found], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return {"image": decode_image(path), "label": int(self.labels[index]), "path": path}

    def __repr__(self) -> str:
        return f"ImageFolder({self._where()}: {len(self)} images, {len(self.class_names)} classes)"

    def _where(self) -> str:
        return ", ".join(str(root) for root in self._roots)

    def _verify(
        self, found: list[tuple[pathlib.Path, str]], threads: int
    ) -> list[tuple[pathlib.Path, str]]:
        """Drops corrupt files and copies, remembering both; fills `content_hashes`."""
        kept, skipped, duplicates, first_with = [], [], [], {}
        copies, digest_of, class_of = [], {}, {}
        with ThreadPoolExecutor(threads) as pool:
            checks = pool.map(_check, [path for path, _ in found])
            checks = (
                progress_bar(checks, "checking images", "image", total=len(found))
                if len(found) > 200
                else checks
            )
            for (path, name), (digest, reason) in zip(found, checks, strict=True):
                if reason:
                    skipped.append((str(path), reason))
                elif digest in first_with:
                    duplicates.append((str(path), first_with[digest]))
                    copies.append((str(path), name))
                    digest_of[str(path)] = digest
                else:
                    first_with[digest] = str(path)
                    class_of[str(path)] = name
                    kept.append((path, name))
        self.skipped, self.duplicates, self.content_hashes = (
            tuple(skipped),
            tuple(duplicates),
            tuple(first_with),
        )
        self._other_class = [
            path for (path, name) in copies if name != class_of[first_with[digest_of[path]]]
        ]
        return kept

    def _say(self, scans: Sequence[Found], count: int) -> str:
        """Logs what was left out, in one line; returns it."""
        reasons: dict[str, list[str]] = {}
        for scan in scans:
            for reason, paths in scan.left_out.items():
                reasons.setdefault(reason, []).extend(paths)
        elsewhere = set(self._other_class)
        reasons[COPIES] = [path for path, _ in self.duplicates if path not in elsewhere]
        reasons[CONFLICTS] = self._other_class
        words = in_words(reasons)
        if self.skipped:
            named = "; ".join(f"{path} ({reason})" for path, reason in self.skipped)
            corrupt = f"skipped {len(self.skipped)} corrupt image(s) of {count}: {named}"
            words = f"{corrupt}; left out: {words}" if words else corrupt
        elif words:
            words = f"left out: {words}"
        harmless = not self.skipped and not any(reasons.get(r) for r in WORTH_A_WARNING)
        if words:
            logging.log(
                logging.INFO if harmless else logging.WARNING, "%s: %s", self._where(), words
            )
        return words


COPIES = "copies of images that are there already"
CONFLICTS = "copies of images of another class"
WORTH_A_WARNING = (NOT_READ, LOOSE, EMPTY, BROKEN_LINKS, UNREADABLE, CONFLICTS)


def _check(path: pathlib.Path) -> tuple[str, str | None]:
    """The file's sha256, and what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", error.strerror or str(error)
    try:
        decode_image(content, str(path))
    except CorruptImageError as error:
        return "", error.reason
    return hashlib.sha256(content).hexdigest(), None


_UNREAD = -2  # in place of the label of a record that nobody has read


class TfdsSource:
    """A split of a TensorFlow Datasets image set in ArrayRecord format, read without TensorFlow.

    Images are decoded here, not by TFDS, so that every source treats a file alike.

    Attributes:
      class_names: from the dataset's label feature; ImageNet's are WordNet ids.
      full_name: with the configuration and version, such as "imagenet2012/5.1.0".
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: StrPath | None = None,
        image: str = "image",
        label: str = "label",
    ):
        """Opens a prepared dataset.

        Args:
          name: a TFDS name, for example "imagenet2012".
          split: for example "train" or "validation[:10%]".
          data_dir: where TFDS data lies; TFDS's default (~/tensorflow_datasets) if None.
          image: the field that holds the image.
          label: the field that holds the class; "" takes the set as one without classes.

        Raises:
          DataError: the dataset is unknown, not prepared for random access, or lacks the split or a
            field; the message lists those that it has.
        """
        import tensorflow_datasets as tfds

        where = f"in {data_dir or 'the default TFDS folder'}"
        try:
            builder: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            _check_split(f"TFDS dataset {name!r} {where}", split, builder.info.splits)
            names = _check_fields(f"TFDS dataset {name!r} {where}", builder, image, label)
            self._records = builder.as_data_source(
                split=split, decoders={image: tfds.decode.SkipDecoding()}
            )
        except tfds.core.DatasetNotFoundError as error:
            raise DataError(
                f"TFDS knows no dataset {name!r}, and none of that name lies {where}"
            ) from error
        except DataError:
            raise
        except (AssertionError, LookupError, NotImplementedError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"TFDS dataset {name!r}, split {split!r}, is not ready {where} ({reason}); "
                "prepare it once: "
                f"pip install tensorflow; tfds build {name} --file_format=array_record"
                + (f" --data_dir={data_dir}" if data_dir else "")
                + (
                    ", with ImageNet's archives in <data_dir>/downloads/manual"
                    if "imagenet" in name
                    else ""
                )
            ) from error
        self._name, self._image, self._label = f"{name}/{split}", image, label
        self.class_names = names
        self.full_name = str(builder.info.full_name)
        self._labels = np.full(len(self._records), _UNREAD if label else -1, np.int64)

    @property
    def labels(self) -> np.ndarray:
        """Class index of each record, -1 in a set without classes. Records that were read have told
        theirs; the rest are read now, without decoding images.
        """
        if not self.labels_at_hand:
            unread = np.flatnonzero(self._labels == _UNREAD)
            for index in progress_bar(unread, f"reading labels of {self._name}", "record"):
                self._labels[index] = self._records[int(index)][self._label]
        return self._labels

    @property
    def labels_at_hand(self) -> bool:
        """Whether `labels` reads nothing."""
        return not np.any(self._labels == _UNREAD)

    def remember_labels(self, labels: np.ndarray) -> None:
        """Takes the labels that an earlier process saw.

        Raises:
          DataError: they are of another number of records.
        """
        if labels.shape != self._labels.shape:
            raise DataError(
                f"{len(labels)} labels for {len(self)} images of {self._name}; delete the cached "
                "features and run again"
            )
        self._labels = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record, path = self._records[index], self.path(index)
        if self._label:
            self._labels[index] = record[self._label]
        image = decode_image(record[self._image], path)
        return {"image": image, "label": int(self._labels[index]), "path": path}

    def path(self, index: int) -> str:
        """What the record is called: set, split and number."""
        return f"{self._name}/{index}"


def _check_split(where: str, split: str, splits: Mapping[str, Any]) -> None:
    asked = [part.partition("[")[0].strip() for part in split.split("+")]
    absent = [name for name in asked if splits and name not in splits and name != "all"]
    if absent:
        raise DataError(
            f"{where} has no split {absent[0]!r}, but {', '.join(sorted(splits))}; set "
            "--config.data.tfds_train or --config.data.tfds_validation, such as train[95%:]"
        )


def _check_fields(where: str, builder: Any, image: str, label: str) -> tuple[str, ...]:
    """The class names of a set that has both fields."""
    features = builder.info.features
    fields = dict(features.items()) if hasattr(features, "items") else {}
    shown = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in sorted(fields.items()))
    if type(fields.get(image)).__name__ != "Image":
        raise DataError(
            f"{where} has no image in a field {image!r}; its fields are {shown}: set "
            "--config.data.tfds_image"
        )
    if label and not hasattr(fields.get(label), "names"):
        raise DataError(
            f"{where} has no class in a field {label!r} (ClassLabel); its fields are {shown}: set "
            "--config.data.tfds_label, to '' for a set without classes"
        )
    return tuple(fields[label].names) if label else ()


class SyntheticSource:
    """Random images of one size, for tests of shapes and speed; record i is a function of (seed,
    i).
    """

    def __init__(
        self, length: int, size: int, seed: int = 0, class_names: Sequence[str] = ("a", "b")
    ):
        self._length, self._size, self._seed = length, size, seed
        self.class_names = tuple(class_names)
        self.labels = np.arange(length, dtype=np.int64) % len(self.class_names)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng([self._seed, index])
        image = rng.integers(0, 256, (self._size, self._size, 3), dtype=np.uint8)
        return {"image": image, "label": int(self.labels[index]), "path": f"synthetic/{index}"}


def path_of(source: Source, index: int) -> str:
    """What a source calls an image; the image is decoded only where the source cannot say."""
    path, paths = getattr(source, "path", None), getattr(source, "paths", None)
    if path is not None:
        return path(index)
    return source[index]["path"] if paths is None else paths[index]


class Subset:
    """Some records of a source, in the order given; class names stay the source's."""

    def __init__(self, source: Source, indices: Sequence[int | np.integer] | np.ndarray):
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        self.class_names = source.class_names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Class index of each record."""
        return self._source.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]

    def path(self, index: int) -> str:
        """What the record is called."""
        return path_of(self._source, int(self._indices[index]))


class Remembered:
    """A source whose images are decoded once, made smaller, and kept in memory: for a few thousand
    photos seen many times.

    Attributes:
      class_names, labels: the source's.
    """

    def __init__(self, source: Source, short_side: int):
        """Reads nothing yet.

        Args:
          source: where records come from.
          short_side: images whose short side is longer are brought down to it, bicubic.
        """
        self._source, self._short_side = source, short_side
        self._records: dict[int, Record] = {}
        self.class_names = source.class_names

    @property
    def labels(self) -> np.ndarray:
        """Class index of each record."""
        return self._source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        if index not in self._records:
            record = self._source[index]
            self._records[index] = record | {"image": shrink(record["image"], self._short_side)}
        return dict(self._records[index])

    def path(self, index: int) -> str:
        """What the record is called."""
        return path_of(self._source, index)


class Concatenated:
    """Sources one after another; classes are merged by name."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])
        self.class_names = tuple(
            sorted({name for source in self._sources for name in source.class_names})
        )
        merged = {name: i for i, name in enumerate(self.class_names)}
        # The extra last entry maps "no class" (-1) onto itself.
        self._new_labels = [
            np.array([*(merged[name] for name in s.class_names), -1]) for s in self._sources
        ]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Class index of each record, in `class_names` of the whole."""
        pairs = zip(self._new_labels, self._sources, strict=True)
        return np.concatenate([new[source.labels] for new, source in pairs]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        which, inside = self._place(index)
        record = self._sources[which][inside]
        return record | {"label": int(self._new_labels[which][record["label"]])}

    def path(self, index: int) -> str:
        """What the record is called."""
        which, inside = self._place(index)
        return path_of(self._sources[which], inside)

    def _place(self, index: int) -> tuple[int, int]:
        """The source that holds a record, and the record's number in it."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return which, index - (int(self._ends[which - 1]) if which else 0)


class WithVectors:
    """A source whose records carry a precomputed vector, "image_embedding": a frozen tower's
    features, computed once. Vectors in memory-mapped .npy files are shared with worker processes.
    """

    def __init__(self, source: Source, vectors: np.ndarray):
        if len(source) != len(vectors):
            raise DataError(
                f"{len(vectors)} vectors for {len(source)} images; delete the cached features and "
                "run again"
            )
        self._source, self._vectors = source, vectors
        self.class_names = source.class_names

    def __getstate__(self) -> dict[str, Any]:
        """Vectors that lie on the disk stay there: a worker gets the file's name, not a copy."""
        state, vectors = dict(self.__dict__), self._vectors
        if isinstance(vectors, np.memmap) and vectors.filename is not None:
            file = os.fspath(vectors.filename)
            if os.path.getsize(file) == vectors.offset + vectors.nbytes:  # and not a part of it
                state["_vectors"] = file
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["_vectors"], str):
            state["_vectors"] = np.load(state["_vectors"], mmap_mode="r", allow_pickle=False)
        self.__dict__.update(state)

    @property
    def labels(self) -> np.ndarray:
        """The source's."""
        return self._source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[index] | {"image_embedding": self._vectors[index]}
