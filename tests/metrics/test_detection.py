"""COCO's averages through pycocotools against values by hand; overlaps against pixels; F1."""

import numpy as np
import pytest

from v2l_jax.metrics.detection import average_precision, f1, matches, overlaps


def _truth():
    boxes = [[10, 10, 20, 20], [50, 50, 40, 20], [5, 60, 30, 30]]
    return {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 4, "bbox": box, "area": 1000, "iscrowd": 0}
            for i, box in enumerate(boxes, 1)
        ],
    }


def _found(*scored):
    return [
        {"image_id": 1, "category_id": 4, "bbox": list(box), "score": score}
        for box, score in scored
    ]


def test_averages():
    truth = _truth()
    boxes = [row["bbox"] for row in truth["annotations"]]
    whole = average_precision(truth, _found(*[(box, 1 - i / 10) for i, box in enumerate(boxes)]))
    assert (whole["mAP"], whole["AP50"], whole["AP75"]) == (1, 1, 1)
    assert "AP_large" not in whole and whole["AP_small"] == 1 or whole["AP_medium"] == 1
    # one right, one wrong above it: precision 1/2 at recalls up to 1/3, 34 of COCO's 101 points
    part = average_precision(truth, _found((boxes[0], 0.5), ([80, 5, 10, 10], 0.9)))
    assert part["AP50"] == pytest.approx(34 / 101 / 2)
    # 16 of 20 columns: an overlap of .8 counts up to the threshold .80, 7 of the 10
    narrow = average_precision(truth, _found(([10, 10, 16, 20], 0.9)))
    assert narrow["mAP"] == pytest.approx(34 / 101 * 7 / 10)
    assert average_precision(truth, []) == {"mAP": 0, "AP50": 0, "AP75": 0}


def test_overlaps_are_those_of_pixels():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 20, (6, 2, 2)), axis=1)
    boxes = np.stack([corners[:, 0, 0], corners[:, 0, 1], corners[:, 1, 0], corners[:, 1, 1]], 1)
    masks = np.zeros((6, 20, 20), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    both = (masks[:3, None] & masks[None, 3:]).sum((2, 3))
    either = (masks[:3, None] | masks[None, 3:]).sum((2, 3))
    wanted = np.where(either > 0, both / np.maximum(either, 1), 0)
    np.testing.assert_allclose(overlaps(boxes[:3].astype(float), boxes[3:].astype(float)), wanted)


def test_matches_and_f1():
    there = np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    found = np.array([[0, 0, 10, 9], [1, 0, 10, 10], [20, 0, 30, 10.0]])
    assert (
        matches([1, 1, 2], found, [1, 1], there) == 1
    )  # one box twice; the other's class is wrong
    assert matches([1, 1, 1], found, [1, 1], there) == 2
    assert matches([], np.zeros((0, 4)), [1, 1], there) == 0
    assert f1(2, 3, 2) == pytest.approx(0.8) and f1(0, 0, 0) == 0
