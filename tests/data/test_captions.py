"""Reading captioned images: COCO's JSON and pictures with a text beside them, whole and damaged."""

import codecs
import json

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data.captions import (
    CaptionedImages,
    choose_images,
    read_coco_captions,
    read_stamps,
    without,
)
from v2l_jax.data.sources import Source
from v2l_jax.errors import DataError

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 9, "file_name": "b.png", "height": 4, "width": 4},
        {"id": 2, "file_name": "deep/a.png"},
        {"id": 5, "file_name": "alone.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "A dog.\n"},
        {"id": 2, "image_id": 2, "caption": " two   cats "},
        {"id": 3, "image_id": 9, "caption": "One dog on grass."},
        {"id": 4, "image_id": 2, "caption": "  "},
    ],
}


def write_picture(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


@pytest.fixture
def coco(tmp_path):
    """Writes a caption file with some values replaced, and its pictures; returns the arguments of
    the reader.
    """

    def write(**changes):
        for name in ("b.png", "deep/a.png", "alone.png"):
            write_picture(tmp_path / "images" / name)
        (tmp_path / "captions.json").write_text(json.dumps(COCO | changes))
        return tmp_path / "captions.json", tmp_path / "images"

    return write


def test_coco_images_come_by_id_with_their_captions(coco):
    source = read_coco_captions(*coco())
    assert isinstance(source, Source)
    assert [path.rpartition("images/")[2] for path in source.paths] == ["deep/a.png", "b.png"]
    assert source.captions == (("two cats",), ("A dog.", "One dog on grass."))
    record = source[1]
    assert (
        record["image"].shape == (4, 6, 3)
        and record["label"] == -1
        and record["path"] == source.paths[1]
    )
    assert source.labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, 'lacks the list "images"'),
        ({"annotations": {}}, 'lacks the list "annotations"'),
        ({"images": [{"id": 1}]}, r'images\[0\] lacks the field "file_name" \(str\)'),
        ({"images": [{"id": "1", "file_name": "a"}]}, r'images\[0\] lacks the field "id" \(int\)'),
        (
            {"images": [*COCO["images"], {"id": 9, "file_name": "c.png"}]},
            r"images\[3\] is another image with the id 9",
        ),
        (
            {"annotations": [{"image_id": 9, "bbox": [1, 2]}]},
            r'annotations\[0\] lacks the field "caption"',
        ),
        ({"annotations": ["a dog"]}, r'annotations\[0\] lacks the field "image_id"'),
        ({"annotations": [{"image_id": 77, "caption": "x"}]}, r"annotations\[0\] is of image 77"),
        ({"annotations": []}, "has no caption"),
        ({"annotations": [{"image_id": 9, "caption": " "}]}, "has no caption"),
    ],
)
def test_a_bad_coco_file_is_named_with_its_first_bad_record(coco, changes, words):
    with pytest.raises(DataError, match=words) as raised:
        read_coco_captions(*coco(**changes))
    assert "captions.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00", b""], ids=repr)
def test_what_is_no_caption_json_is_named(tmp_path, content):
    (tmp_path / "captions.json").write_bytes(content)
    with pytest.raises(DataError, match="captions.json"):
        read_coco_captions(tmp_path / "captions.json", tmp_path)


def test_a_missing_caption_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no caption file .*gone.json"):
        read_coco_captions(tmp_path / "gone.json", tmp_path)


def test_stamps_take_the_first_line_and_no_translation(tmp_path):
    texts = {
        "animals/cat": "A cat.\nde.utf8=Eine Katze.\n",
        "animals/big/dog": "  The dog’s  toy. \r\nfr.utf8=Un jouet.",
        "fr_only": "fr.utf8=Un chat.\n",
        "blank": "\nde.utf8=Leer",
        "empty": "",
    }
    for name, text in texts.items():
        write_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    write_picture(tmp_path / "without.png")
    (tmp_path / "lonely.txt").write_text("No picture.")
    source = read_stamps(tmp_path)
    assert [path.removeprefix(f"{tmp_path}/") for path in source.paths] == [
        "animals/big/dog.png",
        "animals/cat.png",
    ]
    assert source.captions == (("The dog’s toy.",), ("A cat.",))


def test_a_folder_without_stamps_is_named(tmp_path):
    with pytest.raises(DataError, match="no folder .*gone"):
        read_stamps(tmp_path / "gone")
    write_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="none of the 1 pictures .* has a description"):
        read_stamps(tmp_path)


@pytest.fixture
def forty(tmp_path):
    for i in range(40):
        write_picture(tmp_path / f"{i:02}.png", i)
    return CaptionedImages(
        tuple(str(tmp_path / f"{i:02}.png") for i in range(40)),
        tuple((f"number {i}",) for i in range(40)),
    )


@pytest.mark.parametrize(
    ("queries", "examples", "sizes"),
    [(8, 10, (8, 10)), (100, 10, (30, 10)), (100, 100, (20, 20)), (5, 30, (5, 20))],
)
def test_queries_and_examples_are_disjoint_and_drawn_by_seed(forty, queries, examples, sizes):
    asked, shown = choose_images(forty, queries, examples, seed=3)
    assert (len(asked), len(shown)) == sizes
    assert len({*asked.paths, *shown.paths}) == sum(sizes)
    for part in (asked, shown):
        for path, captions in zip(part.paths, part.captions, strict=True):
            assert captions == (f"number {int(path[-6:-4])}",)
    assert choose_images(forty, queries, examples, seed=3) == (asked, shown)
    assert choose_images(forty, queries, examples, seed=4) != (asked, shown)


def test_an_unreadable_image_is_replaced_by_the_next_of_the_draw(forty, caplog):
    before = choose_images(forty, 4, 4, seed=0)
    broken = before[0].paths[1]
    open(broken, "wb").write(b"no image")
    asked, shown = choose_images(forty, 4, 4, seed=0)
    assert shown == before[1] and len(asked) == 4
    assert broken not in asked.paths and asked.paths[0] == before[0].paths[0]
    assert broken in caplog.text


def test_too_few_readable_images_are_an_error(tmp_path):
    source = CaptionedImages((str(tmp_path / "gone.png"),) * 3, (("a",),) * 3)
    with pytest.raises(DataError, match="there are 0; 3 cannot be read, the first is .*gone.png"):
        choose_images(source, 1, 1, seed=0)


def test_images_without_a_scorable_caption_are_left_out_with_a_count(caplog):
    source = CaptionedImages(("a.png", "b.png"), ((".",), ("a dog", ".")))
    kept = without(source, lambda captions: any(len(text) > 1 for text in captions))
    assert kept.paths == ("b.png",) and kept.captions == (("a dog", "."),)
    assert "left out 1 of 2 images" in caplog.text
    with pytest.raises(DataError, match="none of the 2 images"):
        without(source, lambda captions: False)


def test_a_byte_order_mark_before_the_json_is_read(coco):
    annotations, images = coco()
    plain = read_coco_captions(annotations, images)
    annotations.write_bytes(codecs.BOM_UTF8 + annotations.read_bytes())
    assert read_coco_captions(annotations, images) == plain
