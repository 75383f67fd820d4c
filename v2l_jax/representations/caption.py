"""An image is written as a caption: the text beside it, or what a file of captions says of it."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import read_json, read_text
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import NAME, TEXT, option
from v2l_jax.representations.base import ImageSet, Representation, Segments, Text, Written
from v2l_jax.run import loading
from v2l_jax.run.run import Run


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Options of captions as text. A caption is shown whole, whatever the budget."""

    file: str = option(
        "",
        "captions by image: a JSON object, or lines image<tab>caption; an image is its path or the "
        "end of it, such as its file name. '' reads the text file beside each image",
        TEXT,
    )
    suffix: str = option(".txt", "of the text files beside images; their first line counts", NAME)

    def fingerprint(self) -> dict[str, Scalar]:
        """Where captions come from, and a digest of the file."""
        if not self.file:
            return {"beside": self.suffix}
        content = loading.locate(self.file).read_bytes()
        name = pathlib.PurePath(self.file).name
        return {"file": name, "sha256": hashlib.sha256(content).hexdigest()[:12]}

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Raises DataError for images without a caption."""
        del run, budget
        missing = [path for path in images if self.caption_of(path) is None]
        if missing:
            where = self.file or f"the {self.suffix} files beside the images"
            raise DataError(
                f"{len(missing)} of {len(images)} images have no caption in {where}, first "
                f"{missing[0]}"
            )

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The caption, in one line."""
        del run, budget
        return Written(len(images), lambda index: (Text(self.caption_of(images[index]) or ""),))

    def caption_of(self, path: str) -> str | None:
        """The caption of the image at a path; None where it has none."""
        if self.file:
            return _in_file(_read(loading.locate(self.file)), path)
        beside = pathlib.Path(path).with_suffix(self.suffix)
        lines = read_text(beside, DataError).split("\n") if os.path.isfile(beside) else []
        return _one_line(lines[0]) if lines else None


def _in_file(captions: Mapping[str, str], path: str) -> str | None:
    """The caption of the longest end of the path that has one."""
    parts = pathlib.PurePath(path).parts
    ends = (str(pathlib.PurePath(*parts[start:])) for start in range(len(parts)))
    return next((captions[end] for end in ends if end in captions), None)


@functools.lru_cache(maxsize=2)
def _read(path: pathlib.Path) -> dict[str, str]:
    """Captions by image; of several captions of an image the first.

    Raises:
      DataError: the file is neither a JSON object nor lines of two columns.
    """
    content = read_text(path, DataError)
    if content.lstrip().startswith("{"):
        pairs = read_json(path, DataError).items()
    else:
        lines = [line.split("\t", 1) for line in content.splitlines() if line.strip()]
        if not all(len(line) == 2 for line in lines):
            raise DataError(f"{path} is neither a JSON object nor lines image<tab>caption")
        pairs = reversed(lines)
    return {image: _one_line(_first(c, f"{path}: the caption of {image}")) for image, c in pairs}


def _first(caption: Any, where: str) -> str:
    first = caption[0] if isinstance(caption, list) and caption else caption
    if not isinstance(first, str):
        raise DataError(f"{where} is {first!r}, but must be a text or a list of texts")
    return first


def _one_line(text: str) -> str:
    return " ".join(text.split())
