"""Captioned images: COCO's caption JSON, or a folder of pictures each with a text file beside
it.
"""

import codecs
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from v2l_jax.data.image_files import walk
from v2l_jax.data.images import EXTENSIONS, CorruptImageError, decode_image
from v2l_jax.data.sources import Record, StrPath
from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import decode_text, read_json


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """A source of images with one or several captions each.

    Attributes:
      paths: file of each image.
      captions: of each image, at least one, none empty, white space collapsed.
      class_names: none; a caption is not a class.
    """

    paths: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    class_names: tuple[str, ...] = ()

    @property
    def labels(self) -> Int[np.ndarray, " images"]:
        """-1 for each image."""
        return np.full(len(self), -1, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return {"image": decode_image(path), "label": -1, "path": path}


def read_coco_captions(annotations: StrPath, images: StrPath) -> CaptionedImages:
    """Reads a COCO caption file, such as captions_val2017.json; images come in the order of their
    ids.

    Args:
      annotations: JSON with "images" (records of "id" and "file_name") and "annotations" (of
        "image_id" and "caption"). Captions of white space, and images without a caption, are left
        out.
      images: the folder that the file names are in.

    Raises:
      DataError: the file is missing, not such a JSON, or has no caption; its message names the
        first bad record.
    """
    content = _read_json(pathlib.Path(annotations))
    files: dict[int, str] = {}
    for number, record in enumerate(_records(content, "images", annotations)):
        _check_fields(record, {"id": int, "file_name": str}, f"{annotations}: images[{number}]")
        if files.setdefault(record["id"], record["file_name"]) != record["file_name"]:
            raise DataError(
                f"{annotations}: images[{number}] is another image with the id {record['id']}; "
                "ids must differ"
            )
    captions: dict[int, list[str]] = {image: [] for image in files}
    for number, record in enumerate(_records(content, "annotations", annotations)):
        _check_fields(
            record, {"image_id": int, "caption": str}, f"{annotations}: annotations[{number}]"
        )
        if record["image_id"] not in captions:
            raise DataError(
                f"{annotations}: annotations[{number}] is of image {record['image_id']}, which "
                '"images" lacks'
            )
        captions[record["image_id"]].append(record["caption"])
    pairs = ((pathlib.Path(images) / files[image], captions[image]) for image in sorted(files))
    return _captioned(
        pairs, f"{annotations} has no caption; give a caption file, not instances or keypoints"
    )


def read_stamps(folder: StrPath) -> CaptionedImages:
    """Reads pictures whose description lies beside them, as Tux Paint's stamps do: cat.png and
    cat.txt.

    The first line of the text file is the caption, in the default language; lines such as
    "de.utf8=Eine Katze." are translations and are not read. Pictures without a description are left
    out.

    Args:
      folder: searched with all its sub-folders; pictures come in the order of their paths.

    Raises:
      DataError: the folder does not exist, or no picture in it has a description.
    """
    root = pathlib.Path(folder)
    if not os.path.isdir(root):
        raise DataError(
            f"no folder {root}; give a folder of pictures with a .txt beside each, such as Tux "
            "Paint's stamps"
        )
    pictures = sorted(path for path in walk(root) if path.suffix.lower() in EXTENSIONS)
    pairs = ((path, _description(path.with_suffix(".txt"))) for path in pictures)
    return _captioned(
        pairs,
        f"none of the {len(pictures)} pictures in {root} has a description: a .txt of the same "
        "name",
    )


def choose_images(
    source: CaptionedImages, queries: int, examples: int, seed: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Draws which images are captioned and which are shown as examples; none is both.

    A file that cannot be read is left out and named in a warning, and the next one of the draw
    takes its place.

    Args:
      source: all images.
      queries, examples: the most of each; of a small source, at most half are examples.
      seed: of the draw.

    Returns:
      Images to caption, and images to show.

    Raises:
      DataError: fewer than two images can be read.
    """
    examples = min(examples, len(source) // 2)
    readable, corrupt = [], []
    for index in np.random.default_rng(seed).permutation(len(source)):
        if len(readable) == queries + examples:
            break
        try:
            decode_image(source.paths[index])
            readable.append(int(index))
        except CorruptImageError as error:
            corrupt.append(f"{error.path} ({error.reason})")
    if len(readable) < 2:
        found = f"; {len(corrupt)} cannot be read, the first is {corrupt[0]}" if corrupt else ""
        raise DataError(
            "captioning needs an image to caption and one to show, but there are "
            f"{len(readable)}{found}"
        )
    if corrupt:
        logging.warning(
            "%d captioned images cannot be read: %s", len(corrupt), "; ".join(corrupt[:8])
        )
    if len(readable) < queries + examples:
        examples = min(examples, len(readable) // 2)
    return _take(source, readable[examples:]), _take(source, readable[:examples])


def without(source: CaptionedImages, keep: Callable[[Sequence[str]], bool]) -> CaptionedImages:
    """The images whose captions `keep` says yes to; how many were left out is logged.

    Raises:
      DataError: none is left.
    """
    kept = [i for i, captions in enumerate(source.captions) if keep(captions)]
    if not kept:
        raise DataError(f"none of the {len(source)} images has a caption with a word")
    if len(kept) < len(source):
        logging.warning(
            "left out %d of %d images: none of their captions holds a word",
            len(source) - len(kept),
            len(source),
        )
    return _take(source, kept)


def _take(source: CaptionedImages, indices: Sequence[int]) -> CaptionedImages:
    return CaptionedImages(
        tuple(source.paths[i] for i in indices), tuple(source.captions[i] for i in indices)
    )


def _captioned(
    pairs: Iterable[tuple[pathlib.Path, Sequence[str]]], nothing: str
) -> CaptionedImages:
    """Keeps images that have a caption; raises DataError(`nothing`) where none does."""
    paths, captions = [], []
    for path, texts in pairs:
        cleaned = tuple(text for text in (" ".join(text.split()) for text in texts) if text)
        if cleaned:
            paths.append(str(path))
            captions.append(cleaned)
    if not paths:
        raise DataError(nothing)
    return CaptionedImages(tuple(paths), tuple(captions))


def _description(path: pathlib.Path) -> tuple[str, ...]:
    if not os.path.isfile(path):
        return ()
    content = path.read_bytes()
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.partition(b"\n")[0]  # lines of other languages have other encodings
    first = (decode_text(content, str(path), DataError).splitlines() or [""])[0]
    return () if ".utf8=" in first.partition(" ")[0] else (first,)


def _read_json(path: pathlib.Path) -> Any:
    if not os.path.exists(path):
        raise DataError(
            f"no caption file {path}; download COCO's annotations, or name your own file"
        )
    return read_json(path, DataError, None)


def _records(content: Any, name: str, path: StrPath) -> Sequence[Any]:
    records = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(records, list):
        raise DataError(f'{path} is not a COCO caption file: it lacks the list "{name}"')
    return records


def _check_fields(record: Any, kinds: Mapping[str, type], where: str) -> None:
    for name, kind in kinds.items():
        if not isinstance(record, Mapping) or type(record.get(name)) is not kind:
            raise DataError(f'{where} lacks the field "{name}" ({kind.__name__})')
