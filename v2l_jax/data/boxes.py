"""Objects in images: COCO's instances files (JSON) read into records, and predictions written as
COCO's results files.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.images import decode_image
from v2l_jax.data.sources import Record
from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import entry, read_json

StrPath = str | os.PathLike
_OUTSIDE = 1.0  # pixels that a box may reach over its image's edge: annotations are rounded


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image.

    Attributes:
      image_id: COCO's number of the image.
      path: its file.
      size: (height, width) in pixels, as the file of annotations says.
      classes: for each object the place of its class in `BoxImages.class_names`.
      boxes: [objects, 4], (left, top, right, bottom) in pixels.
    """

    image_id: int
    path: str
    size: tuple[int, int]
    classes: tuple[int, ...]
    boxes: Float[np.ndarray, "objects 4"]


@dataclasses.dataclass(frozen=True, eq=False)
class BoxImages:
    """Images with the boxes of their objects: a Source without classes of images.

    Attributes:
      images: by image id.
      names: of the classes, in the order of their ids.
      category_ids: COCO's number of each class.
      annotations: the file that they come from.
    """

    images: tuple[Objects, ...]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    annotations: str = ""
    class_names: tuple[str, ...] = ()

    @functools.cached_property
    def paths(self) -> tuple[str, ...]:
        """The images' files."""
        return tuple(one.path for one in self.images)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """-1 for each image."""
        return np.full(len(self.images), -1, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return {"image": decode_image(path), "label": -1, "path": path}


def read_coco_boxes(annotations: StrPath, images: StrPath) -> BoxImages:
    """Reads a COCO instances file, such as instances_val2017.json; images come in the order of
    their ids, those without objects included.

    Crowds, and boxes without an area, are left out; a line says how many.

    Args:
      annotations: JSON with "images" (id, file_name, height, width), "annotations" (image_id,
        category_id, bbox: left, top, width, height in pixels, perhaps iscrowd) and "categories"
        (id, name).
      images: the folder that the file names are in.

    Raises:
      DataError: the file is missing or not such a JSON, an image file is missing, a category has no
        name, or a box lies outside its image; the message names the first bad record.
    """
    content = read_json(annotations, DataError)
    where = lambda part, number: f"{annotations}: {part}[{number}]"
    names = _categories(content, where)
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    for number, record in _records(content, "images", where):
        at = where("images", number)
        known = entry(record, "id", int, at, DataError)
        if known in found:
            raise DataError(f"{at} has the id {known}, which an image before it has; ids differ")
        path = pathlib.Path(images) / entry(record, "file_name", str, at, DataError)
        if not os.path.isfile(path):
            raise DataError(f"{at}: there is no file {path}; give the folder of these images")
        size = tuple(entry(record, key, int, at, DataError) for key in ("height", "width"))
        if min(size) < 1:
            raise DataError(f"{at} is {size[1]}×{size[0]} pixels large; correct its size")
        found[known] = str(path), (size[0], size[1])
    boxes: dict[int, list[tuple[int, list[float]]]] = {known: [] for known in found}
    order = {category: place for place, category in enumerate(sorted(names))}
    left_out: Counter[str] = Counter()
    for number, record in _records(content, "annotations", where):
        at = where("annotations", number)
        image = entry(record, "image_id", int, at, DataError)
        category = entry(record, "category_id", int, at, DataError)
        if image not in found:
            raise DataError(f'{at} is of image {image}, which "images" lacks')
        if category not in names:
            raise DataError(f'{at} is of category {category}, which has no name in "categories"')
        if record.get("iscrowd", 0):
            left_out["crowds"] += 1
            continue
        box = _box(record, found[image][1], at)
        if box is None:
            left_out["boxes without an area"] += 1
            continue
        boxes[image].append((order[category], box))
    if left_out:
        said = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
        logging.info("%s: left out: %s", annotations, said)
    listed = tuple(
        Objects(known, *found[known], tuple(c for c, _ in boxes[known]), _array(boxes[known]))
        for known in sorted(found)
    )
    if not any(one.classes for one in listed):
        raise DataError(f"{annotations} holds no objects")
    ids = tuple(sorted(names))
    return BoxImages(listed, tuple(names[i] for i in ids), ids, str(annotations))


def write_coco_results(
    path: pathlib.Path,
    images: Sequence[Objects],
    category_ids: Sequence[int],
    found: Sequence[Sequence[tuple[int, Float[np.ndarray, " 4"], float]]],
) -> list[dict[str, Any]]:
    """Writes predictions as COCO's results file, a list of {image_id, category_id, bbox, score}.

    Args:
      path: of the file.
      images: that were looked at.
      category_ids: COCO's number of each class.
      found: for each image its predictions: class, box (left, top, right, bottom) in pixels, score.

    Returns:
      What was written.
    """
    rows = [
        {
            "image_id": one.image_id,
            "category_id": category_ids[label],
            "bbox": [
                round(float(x), 2) for x in (box[0], box[1], box[2] - box[0], box[3] - box[1])
            ],
            "score": float(score),
        }
        for one, predictions in zip(images, found, strict=True)
        for label, box, score in predictions
    ]
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(rows))
    return rows


def _categories(content: Mapping[str, Any], where: Any) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, record in _records(content, "categories", where):
        at = where("categories", number)
        known = entry(record, "id", int, at, DataError)
        name = entry(record, "name", str, at, DataError).strip()
        if not name or known in names or name in names.values():
            raise DataError(f"{at}: id {known}, name {name!r}: ids and names must be there once")
        names[known] = name
    return names


def _records(content: Mapping[str, Any], part: str, where: Any) -> list[tuple[int, dict]]:
    rows = entry(content, part, list, where(part, "").removesuffix("[]"), DataError)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{where(part, number)} is not an object {{…}}")
    return list(enumerate(rows))


def _box(record: Mapping[str, Any], size: tuple[int, int], where: str) -> list[float] | None:
    """(left, top, right, bottom) within the image; None where it has no area."""
    given = entry(record, "bbox", list, where, DataError)
    numbers = [x for x in given if isinstance(x, (int, float)) and not isinstance(x, bool)]
    if len(given) != 4 or len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: bbox is {given}, but must be [left, top, width, height]")
    left, top, width, height = map(float, numbers)
    if width <= 0 or height <= 0:
        return None
    right, bottom = left + width, top + height
    if min(left, top) < -_OUTSIDE or right > size[1] + _OUTSIDE or bottom > size[0] + _OUTSIDE:
        raise DataError(
            f"{where}: the box {given} lies outside its image of {size[1]}×{size[0]} pixels; "
            "correct it, or leave it out"
        )
    rows, columns = map(float, size)
    clipped = [max(left, 0.0), max(top, 0.0), min(right, columns), min(bottom, rows)]
    return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else None


def _array(boxes: Sequence[tuple[int, list[float]]]) -> Float[np.ndarray, "objects 4"]:
    return np.asarray([box for _, box in boxes], np.float64).reshape(-1, 4)


def coco_truth(images: BoxImages) -> dict[str, Any]:
    """What COCO's evaluation compares predictions of these images with: the content of their file
    of annotations, crowds included, with the areas and numbers that it may lack.
    """
    content = read_json(images.annotations, DataError)
    asked = {one.image_id for one in images.images}
    rows = [row for row in content["annotations"] if row["image_id"] in asked]
    return {
        "images": [row for row in content["images"] if row["id"] in asked],
        "categories": content["categories"],
        "annotations": [
            {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, **row, "id": number}
            for number, row in enumerate(rows, 1)
        ],
    }
