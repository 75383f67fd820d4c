"""An image is written as the text that is read in it, by RapidOCR (PaddleOCR's networks as ONNX, in
its package): what can be answered by reading alone.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from v2l_jax.errors import ConfigError
from v2l_jax.metrics.results import Scalar
from v2l_jax.options import FLAG, number, option
from v2l_jax.progress import progress_bar
from v2l_jax.representations.base import ImageSet, Representation, Segments, Text, Written
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json

Line = tuple[Any, str, float]
Reader = Callable[[UInt8[np.ndarray, "height width 3"]], list[Line]]
_BINS = 1000


@dataclasses.dataclass(frozen=True)
class Options(Representation):
    """Options of read text. All of it is shown, whatever the budget; nothing where none is."""

    least_score: float = option(0.5, "of a line that is taken as read", number(0, 1))
    boxes: bool = option(
        False, "whether each line's box follows it: left, top, right, bottom in 1,000 bins", FLAG
    )

    def fingerprint(self) -> dict[str, Scalar]:
        """The options and the reader."""
        return {"reader": "RapidOCR"} | dataclasses.asdict(self)

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Reads each part of the images into the folder ocr/ of the workdir, unless it is there.

        Raises:
          ConfigError: RapidOCR is not installed.
        """
        del budget
        for name, part in images.parts:
            path = self._path(run, name, part)
            if not path.exists():
                read, texts = reader(self.least_score), []
                for i in progress_bar(range(len(part)), f"reading text, {name}", "image"):
                    image = part[i]["image"]
                    texts.append(written(read(image), image.shape[:2], self.boxes))
                write_json(path, texts)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """`Text in the image: "…"; "…"`, in reading order."""
        del budget
        texts = [
            t for name, part in images.parts for t in read_json(self._path(run, name, part), [])
        ]
        return Written(len(images), lambda i: (Text(texts[i]),) if texts[i] else ())

    def _path(self, run: Run, name: str, part: Any) -> pathlib.Path:
        known = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(known.encode()).hexdigest()[:12]
        return run.workdir / "ocr" / f"{run.file_name(name, part)}-{digest}.json"


def written(lines: Sequence[Line], size: tuple[int, int], boxes: bool) -> str:
    """Lines in reading order: those that overlap by half their height are one row, read from the
    left.

    Args:
      lines: (four corners as (x, y) in pixels, text, score).
      size: height and width of the image.
      boxes: see `Options.boxes`.
    """
    if not lines:
        return ""
    placed = []
    for corners, text, _ in lines:
        points = np.asarray(corners, np.float64)
        placed.append((points.min(0), points.max(0), text))
    rows: list[list[Any]] = []
    for line in sorted(placed, key=lambda line: line[0][1]):
        first = rows[-1][0] if rows else None
        middle = (line[0][1] + line[1][1]) / 2
        if first is not None and first[0][1] <= middle <= first[1][1]:
            rows[-1].append(line)
        else:
            rows.append([line])
    shown = []
    for row in rows:
        for low, high, text in sorted(row, key=lambda line: line[0][0]):
            quoted = '"' + " ".join(text.split()).replace('"', "'") + '"'
            if boxes:
                scale = (_BINS - 1) / np.array([size[1], size[0]], np.float64)
                ends = np.clip(np.rint(np.concatenate([low * scale, high * scale])), 0, _BINS - 1)
                quoted += "".join(f" {int(end)}" for end in ends)
            shown.append(quoted)
    return "Text in the image: " + "; ".join(shown)


@functools.lru_cache(maxsize=1)
def reader(least_score: float) -> Reader:
    """RapidOCR with its own networks; lines below a score are left out.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        package = importlib.import_module("rapidocr_onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "reading text in images needs RapidOCR: pip install 'v2l_jax[ocr]', or choose another "
            "config.representation.kind"
        ) from error
    engine = package.RapidOCR(text_score=least_score)

    def read(image: UInt8[np.ndarray, "height width 3"]) -> list[Line]:
        found, _ = engine(np.ascontiguousarray(image[..., ::-1]))  # it wants blue first
        return [(box, text, float(score)) for box, text, score in found or []]

    return read
