"""Images made of cut-outs: boxes are those of the pasted pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data.boxes import read_coco_boxes
from v2l_jax.data.cut_outs import write_pasted
from v2l_jax.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    """A red disc and a blue bar with transparent margins, and a grey photo."""
    y, x = np.mgrid[:40, :60]
    disc = np.zeros((40, 60, 4), np.uint8)
    disc[(y - 20) ** 2 + (x - 30) ** 2 <= 15**2] = (255, 0, 0, 255)
    bar = np.zeros((40, 60, 4), np.uint8)
    bar[18:24, 5:50] = (0, 0, 255, 255)
    for name, array in (("disc", disc), ("bar", bar)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    Image.new("RGB", (90, 70), (128, 128, 128)).save(tmp_path / "photo.png")
    return tmp_path


def test_boxes_hold_the_pasted_pixels_and_nothing_else(pictures, tmp_path):
    cut_outs = {name: [pictures / f"{name}.png"] for name in ("disc", "bar")}
    made = [
        write_pasted(tmp_path / part, cut_outs, [pictures / "photo.png"], 12, 5, 64)
        for part in ("a", "b")
    ]
    assert made[0].read_bytes() == made[1].read_bytes()
    found = read_coco_boxes(made[0], made[0].parent / "images")
    assert found.names == ("bar", "disc") and len(found) == 12
    assert {len(one.classes) for one in found.images} == {1, 2, 3}
    for one in found.images:
        image = np.asarray(Image.open(one.path)).astype(int)
        coloured = np.abs(image - 128).max(-1) > 60
        inside = np.zeros_like(coloured)
        for left, top, right, bottom in one.boxes.astype(int):
            inside[top:bottom, left:right] = True
            edges = coloured[top, left:right], coloured[bottom - 1, left:right]
            edges += coloured[top:bottom, left], coloured[top:bottom, right - 1]
            assert len(one.classes) > 1 or all(edge.any() for edge in edges)
        assert not (coloured & ~inside).any()
    areas = json.loads(made[0].read_text())["annotations"]
    assert all(row["area"] == row["bbox"][2] * row["bbox"][3] for row in areas)


def test_a_class_without_pictures_is_refused(pictures, tmp_path):
    with pytest.raises(DataError, match="no pictures of bar"):
        write_pasted(tmp_path / "a", {"bar": []}, [pictures / "photo.png"], 1, 0)
