"""Folders good, bad and empty; a real ArrayRecord data set; combinations of sources."""

import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.tiny_tfds import write_pets
from v2l_jax.data import sources
from v2l_jax.errors import DataError


def write_photo(path, value, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


@pytest.fixture
def pets(tmp_path):
    """train/{cats,dogs} and val/{cats,dogs}; val/cats/b.png repeats train/cats/b.png, one dog is
    corrupt.
    """
    for i, name in enumerate(
        ["train/cats/a.png", "train/cats/b.png", "train/dogs/a.PNG", "val/dogs/sub/c.jpg"]
    ):
        write_photo(tmp_path / name, 10 + i)
    (tmp_path / "val/cats").mkdir()
    (tmp_path / "val/cats/b.png").write_bytes((tmp_path / "train/cats/b.png").read_bytes())
    (tmp_path / "train/dogs/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "train/dogs/notes.txt").write_text("no image")
    (tmp_path / "train/.hidden").mkdir()
    write_photo(tmp_path / "train/.hidden/x.png", 99)
    write_photo(tmp_path / "train/cats/._a.png", 98)
    return tmp_path


def test_classes_are_folders_and_roots_merge(pets, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        folder = sources.ImageFolder(
            [pets / "train", pets / "val"], rename={"cats": "cat", "dogs": "dog"}
        )
    assert folder.class_names == ("cat", "dog")
    assert folder.labels.tolist() == [0, 0, 1, 1]
    assert [p.removeprefix(str(pets)) for p in folder.paths] == [
        "/train/cats/a.png", "/train/cats/b.png", "/train/dogs/a.PNG", "/val/dogs/sub/c.jpg",
    ]  # fmt: skip
    assert folder.duplicates == ((str(pets / "val/cats/b.png"), str(pets / "train/cats/b.png")),)
    assert folder.skipped == (
        (str(pets / "train/dogs/broken.jpg"), "not an image in a known format"),
    )
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert (
        len(warnings) == 1
        and "skipped 1 corrupt image(s)" in warnings[0]
        and "broken.jpg" in warnings[0]
    )
    record = folder[2]
    assert record["image"].shape == (6, 8, 3) and record["image"][0, 0].tolist() == [12, 0, 0]
    assert record["label"] == 1 and record["path"] == str(pets / "train/dogs/a.PNG")
    assert isinstance(folder, sources.Source)


def test_folders_that_are_no_classes(pets):
    flat = sources.ImageFolder([pets / "train", pets / "val"], labelled=False)
    assert flat.class_names == () and flat.labels.tolist() == [-1] * 4


def test_remembered_images_are_read_once_and_made_smaller(pets, monkeypatch):
    write_photo(pets / "train/cats/wide.png", 77, size=(60, 20))
    folder = sources.ImageFolder(pets / "train")
    remembered = sources.Remembered(folder, short_side=10)
    assert len(remembered) == len(folder) and remembered.class_names == folder.class_names
    assert remembered.labels.tolist() == folder.labels.tolist()
    shapes = {
        pathlib.Path(r["path"]).name: r["image"].shape
        for r in map(remembered.__getitem__, range(len(folder)))
    }
    assert shapes["wide.png"] == (10, 30, 3) and shapes["b.png"] == (6, 8, 3)
    monkeypatch.setattr(sources, "decode_image", None)
    record = remembered[0]
    record["image"] = None
    assert remembered[0]["image"].shape == (6, 8, 3) and remembered[0]["label"] == 0


def test_chosen_classes(pets):
    folder = sources.ImageFolder(pets / "train", classes=["dog"], rename={"dogs": "dog"})
    assert folder.class_names == ("dog",) and len(folder) == 1
    with pytest.raises(DataError, match="no images of class pizza in .*train"):
        sources.ImageFolder(pets / "train", classes=["dogs", "pizza"])


def test_without_verification_nothing_is_read(pets):
    folder = sources.ImageFolder([pets / "train", pets / "val"], verify=False)
    assert len(folder) == 6 and folder.skipped == () and folder.content_hashes == ()


def test_flat_folder(tmp_path):
    for i in range(3):
        write_photo(tmp_path / f"{i}.png", i)
    folder = sources.ImageFolder(tmp_path)
    assert (
        folder.class_names == () and folder.labels.tolist() == [-1] * 3 and folder[1]["label"] == -1
    )


@pytest.mark.parametrize("threads", [1, 8])
def test_the_scan_does_not_depend_on_threads(pets, threads):
    folder = sources.ImageFolder([pets / "val", pets / "train"], threads=threads)
    assert folder.paths[0] == str(pets / "val/cats/b.png") and len(folder.content_hashes) == 4


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(
        DataError,
        match=r"no images in .*: looked for \.bmp .*\.webp files in it and its sub-folders",
    ):
        sources.ImageFolder(tmp_path)
    with pytest.raises(DataError, match="no folder .*absent"):
        sources.ImageFolder(tmp_path / "absent")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 images in .* can be read"):
        sources.ImageFolder(tmp_path)


def test_synthetic_records_are_a_function_of_seed_and_index():
    source = sources.SyntheticSource(5, 16, seed=3)
    assert source[4]["image"].shape == (16, 16, 3) and source[4]["image"].dtype == np.uint8
    np.testing.assert_array_equal(
        source[4]["image"], sources.SyntheticSource(9, 16, seed=3)[4]["image"]
    )
    assert (source[4]["image"] != sources.SyntheticSource(5, 16, seed=4)[4]["image"]).any()


def test_subset_and_concatenation_keep_labels_right():
    pets = sources.SyntheticSource(4, 8, seed=0, class_names=("cat", "dog"))
    food = sources.SyntheticSource(3, 8, seed=1, class_names=("pizza", "cat"))
    both = sources.Concatenated([sources.Subset(pets, [3, 0]), food])
    assert both.class_names == ("cat", "dog", "pizza") and len(both) == 5
    names = [both.class_names[both[i]["label"]] for i in range(5)]
    assert names == ["dog", "cat", "pizza", "cat", "pizza"]
    assert both.labels.tolist() == [both[i]["label"] for i in range(5)]
    np.testing.assert_array_equal(both[0]["image"], pets[3]["image"])
    np.testing.assert_array_equal(both[4]["image"], food[2]["image"])


def test_paths_are_known_without_decoding(tmp_path, monkeypatch):
    for value in range(3):
        write_photo(tmp_path / f"{value}.png", value)
    folder, synthetic = sources.ImageFolder(tmp_path), sources.SyntheticSource(2, 8)
    parts = [sources.Subset(folder, [2, 0]), synthetic, folder]
    whole = sources.Remembered(sources.Concatenated(parts), 8)
    expected = [whole[i]["path"] for i in range(7)]
    assert expected[:2] == [folder.paths[2], folder.paths[0]] and expected[4:] == [*folder.paths]
    monkeypatch.setattr(sources, "decode_image", None)
    assert [sources.path_of(whole, i) for i in range(7)] == expected


def test_concatenation_of_a_flat_set(tmp_path):
    write_photo(tmp_path / "a.png", 1)
    both = sources.Concatenated([sources.SyntheticSource(2, 8), sources.ImageFolder(tmp_path)])
    assert both.labels.tolist() == [0, 1, -1] and both[2]["label"] == -1


def test_tfds_set_that_is_not_prepared(tmp_path):
    with pytest.raises(
        DataError, match=r"tfds build imagenet2012 --file_format=array_record --data_dir=.*manual"
    ):
        sources.TfdsSource("imagenet2012", "train", tmp_path)
    with pytest.raises(DataError, match="TFDS knows no dataset 'no_such_set'"):
        sources.TfdsSource("no_such_set", "train", tmp_path)


def test_tfds_set_is_read_without_tensorflow(tmp_path, monkeypatch):
    photos = [np.full((4, 6 + i, 3), 10 * i, np.uint8) for i in range(5)]
    write_pets(tmp_path, {"train": photos}, monkeypatch)
    source = sources.TfdsSource("tiny_pets", "train", tmp_path)
    assert source.class_names == ("cat", "dog") and len(source) == 5
    for i, photo in enumerate(photos):
        record = source[i]
        np.testing.assert_array_equal(record["image"], photo)
        assert record["label"] == i % 2 and record["path"] == f"tiny_pets/train/{i}"
    assert source.labels.tolist() == [0, 1, 0, 1, 0]
    assert len(sources.TfdsSource("tiny_pets", "train[:40%]", tmp_path)) == 2
    without = sources.TfdsSource("tiny_pets", "train", tmp_path, label="")
    assert without.class_names == () and without.labels.tolist() == [-1] * 5
    assert without[1]["label"] == -1
    fields = r"its fields are image \(Image\), label \(ClassLabel\)"
    for wrong, message in (
        ({"split": "validation"}, "no split 'validation', but train; set --config.data.tfds_train"),
        ({"image": "picture"}, f"no image in a field 'picture'; {fields}: set .*tfds_image"),
        ({"image": "label"}, "no image in a field 'label'"),
        ({"label": "breed"}, f"no class in a field 'breed' .*{fields}: set .*tfds_label"),
        ({"label": "image"}, "no class in a field 'image'"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            sources.TfdsSource(
                **{"name": "tiny_pets", "split": "train", "data_dir": tmp_path} | wrong
            )
        assert "tfds build" not in str(caught.value)
