"""COCO's instances files read, and what is refused; results files."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data.boxes import coco_truth, read_coco_boxes, write_coco_results
from v2l_jax.errors import DataError

CONTENT = {
    "images": [
        {"id": 7, "file_name": "b.png", "height": 20, "width": 40},
        {"id": 3, "file_name": "a.png", "height": 30, "width": 30},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10]},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40.6, 20]},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [1, 1, 2, 2], "iscrowd": 1},
        {"id": 4, "image_id": 7, "category_id": 2, "bbox": [1, 1, 0, 2]},
    ],
}


@pytest.fixture
def written(tmp_path):
    """Writes a content beside its images; returns the arguments of `read_coco_boxes`."""

    def write(content):
        for image in CONTENT["images"]:
            size = image["width"], image["height"]
            Image.new("RGB", size).save(tmp_path / image["file_name"])
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return tmp_path / "instances.json", tmp_path

    return write


def test_objects_by_image_in_the_order_of_ids(written, tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"):
        found = read_coco_boxes(*written(CONTENT))
    assert found.names == ("bicycle", "dog") and found.category_ids == (2, 18)
    assert [one.image_id for one in found.images] == [3, 7]
    empty, one = found.images
    assert empty.classes == () and empty.boxes.shape == (0, 4)
    assert one.classes == (1, 0) and one.size == (20, 40)
    np.testing.assert_array_equal(one.boxes, [[10, 5, 30, 15], [0, 0, 40, 20]])  # clipped
    assert "left out: 1 boxes without an area, 1 crowds" in caplog.text
    assert len(found) == 2 and found[1]["image"].shape == (20, 40, 3)
    truth = coco_truth(found)
    assert len(truth["annotations"]) == 4  # COCO ignores what lies in crowds, so they stay
    assert truth["annotations"][0]["area"] == 200 and truth["annotations"][0]["iscrowd"] == 0


def test_results_file(written, tmp_path):
    found = read_coco_boxes(*written(CONTENT))
    predictions = [[], [(1, np.array([10, 5, 30, 15.0]), 0.5)]]
    path = tmp_path / "results.json"
    rows = write_coco_results(path, found.images, found.category_ids, predictions)
    wanted = {"image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10], "score": 0.5}
    assert json.loads(path.read_text()) == rows == [wanted]


def _with(part, number, **changes):
    content = copy.deepcopy(CONTENT)
    content[part][number].update(changes)
    return content


@pytest.mark.parametrize(
    "content, why",
    [
        (_with("annotations", 0, bbox=[30, 5, 20, 10]), r"annotations\[0\]: the box .* lies outs"),
        (_with("annotations", 0, bbox=[1, 2, 3]), r"annotations\[0\]: bbox is \[1, 2, 3\]"),
        (_with("annotations", 1, category_id=5), r"annotations\[1\] is of category 5, which has"),
        (_with("annotations", 1, image_id=9), r"annotations\[1\] is of image 9"),
        (_with("images", 1, file_name="c.png"), r"images\[1\]: there is no file .*c.png"),
        (_with("images", 1, id=7), r"images\[1\] has the id 7"),
        (_with("images", 1, height=0), r"images\[1\] is 30×0 pixels"),
        (_with("categories", 1, name="dog"), r"categories\[1\]: id 2, name 'dog'"),
        ({**CONTENT, "annotations": []}, "holds no objects"),
        ({**CONTENT, "images": {}}, "'images' is an object"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(written, content, why):
    with pytest.raises(DataError, match=why):
        read_coco_boxes(*written(content))
