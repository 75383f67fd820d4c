"""How well predicted boxes find the objects of images: COCO's mean average precision through
pycocotools, and F1 at one overlap, which needs no ranking.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

AVERAGES = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""The first six numbers of COCO's summary, in its order: the mean over IoU .50:.05:.95; at .50; at
.75; and the mean for objects below 32², below 96² and above.
"""


def average_precision(
    truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """COCO's `AVERAGES` with at most 100 boxes an image, by pycocotools.

    Args:
      truth: the content of an instances file: images, annotations, categories.
      found: the content of a results file.

    Returns:
      Each average between 0 and 1; without those that COCO leaves undefined because the images
      show no such objects.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return {"mAP": 0.0, "AP50": 0.0, "AP75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on standard output
        known: Any = COCO()
        known.dataset = dict(truth)
        known.createIndex()
        evaluated = COCOeval(known, known.loadRes([dict(row) for row in found]), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    values = dict(zip(AVERAGES, map(float, evaluated.stats)))
    return {name: value for name, value in values.items() if value >= 0}


def overlaps(a: Float[np.ndarray, "a 4"], b: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, "a b"]:
    """Intersection over union of boxes (left, top, right, bottom)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def matches(
    classes: Sequence[int],
    boxes: Float[np.ndarray, "found 4"],
    true_classes: Sequence[int],
    true_boxes: Float[np.ndarray, "objects 4"],
    overlap: float = 0.5,
) -> int:
    """How many predictions of an image are right: pairs of equal class and at least this overlap,
    each box in one pair, the best overlaps first.
    """
    if not len(classes) or not len(true_classes):
        return 0
    same = np.asarray(classes)[:, None] == np.asarray(true_classes)[None]
    table = np.where(same, overlaps(np.asarray(boxes), np.asarray(true_boxes)), 0.0)
    count = 0
    while table.max() >= overlap:
        row, column = np.unravel_index(table.argmax(), table.shape)
        table[row], table[:, column] = 0.0, 0.0
        count += 1
    return count


def f1(right: int, found: int, there: int) -> float:
    """The harmonic mean of precision and recall; 0 where nothing is found."""
    return 2 * right / (found + there) if found + there else 0.0
