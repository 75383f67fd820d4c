"""Image folders as users have them: other endings, links, loops, copies, loose images. Nothing is
left out without being counted.
"""

import io
import logging
import os
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from v2l_jax.data import images
from v2l_jax.data.captions import read_stamps
from v2l_jax.data.images import EXTENSIONS, CorruptImageError, decode_image
from v2l_jax.data.sources import ImageFolder
from v2l_jax.errors import DataError


def _photo(path, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, 0, 0)).save(path, **options)


def _scan(folder, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="absl"):
        found = ImageFolder(folder, **options)
    lines = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(lines) <= 1 and (not lines or found.left_out in lines[0])
    return found


@pytest.mark.parametrize(
    "ending, format",
    [
        (".jfif", "JPEG"), (".jpe", "JPEG"), (".avif", "AVIF"), (".jp2", "JPEG2000"),
        (".tga", "TGA"), (".pgm", "PPM"), (".dib", "DIB"), (".JFIF", "JPEG"), (".apng", "PNG"),
        (".qoi", "QOI"),
    ],
)  # fmt: skip
def test_every_ending_that_pillow_opens_is_found(ending, format, tmp_path):
    _photo(tmp_path / f"cat/a{ending}", 200, format=format)
    folder = ImageFolder(tmp_path)
    assert folder.class_names == ("cat",) and abs(int(folder[0]["image"][0, 0, 0]) - 200) < 80


def test_what_pillow_cannot_decode_is_no_image():
    assert not {".mpg", ".h5", ".eps", ".ps", ".wmf", ".grib", ".pdf", ".txt"} & EXTENSIONS


def test_linked_folders_are_followed_once_and_loops_end(tmp_path, caplog):
    _photo(tmp_path / "elsewhere/dog/a.png", 1)
    _photo(tmp_path / "set/cat/b.png", 2)
    _photo(tmp_path / "elsewhere/more/c.png", 3)
    (tmp_path / "set/dog").symlink_to(tmp_path / "elsewhere/dog")
    (tmp_path / "set/cat/more").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "set/cat/loop").symlink_to(tmp_path / "set")
    (tmp_path / "elsewhere/more/back").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "set/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    folder = _scan(tmp_path / "set", caplog)
    assert folder.class_names == ("cat", "dog") and folder.labels.tolist() == [0, 0, 1]
    assert "1 links that lead nowhere" in folder.left_out
    flat = ImageFolder(tmp_path / "set", labelled=False)
    assert len(flat) == 3


def test_an_image_in_two_classes_is_counted_as_such(tmp_path, caplog):
    for name in ("cat/a.png", "cat/copy.png", "dog/a.png"):
        _photo(tmp_path / name, 7)
    _photo(tmp_path / "dog/b.png", 8)
    folder = _scan(tmp_path, caplog)
    assert len(folder) == 2
    assert "1 copies of images that are there already" in folder.left_out
    assert "1 copies of images of another class" in folder.left_out
    assert "dog/a.png" in folder.left_out


def test_loose_images_empty_classes_and_other_files_are_counted(tmp_path, caplog):
    _photo(tmp_path / "cat/a.png", 1)
    _photo(tmp_path / "loose.png", 2)
    _photo(tmp_path / "cat/.hidden.png", 3)
    (tmp_path / "fox").mkdir()
    for name in ("photo.heic", "photo.HEIC", "notes.txt"):
        (tmp_path / "fox" / name).write_bytes(b"x")
    folder = _scan(tmp_path, caplog)
    for words in (
        "1 loose images beside class folders (such as",
        "1 class folders without images",
        "2 pictures or archives of a kind that is not read",
        "1 no images",
        "1 hidden",
    ):
        assert words in folder.left_out
    assert (
        ImageFolder(tmp_path / "cat").left_out
        == f"left out: 1 hidden (such as {tmp_path}/cat/.hidden.png)"
    )


def test_a_folder_without_losses_says_nothing(tmp_path, caplog):
    _photo(tmp_path / "cat/a.png", 1)
    assert _scan(tmp_path, caplog).left_out == ""


def test_a_class_whose_name_is_not_utf_8_is_one_line(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    _photo(tmp_path / "a.png", 1)
    os.rename(tmp_path / "a.png", folder + b"/a.png")
    with pytest.raises(
        DataError, match=r"class folder 'caf\\xe9' .* is not UTF-8.*rename"
    ) as caught:
        ImageFolder(tmp_path)
    str(caught.value).encode()
    named = ImageFolder(tmp_path, rename={os.fsdecode(b"caf\xe9"): "coffee"})
    assert named.class_names == ("coffee",)


def test_pngs_with_much_text_or_a_large_profile_are_decoded():
    image, text = Image.new("RGB", (4, 4), (9, 8, 7)), PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 3_000_000, zip=True)
    text.add_itxt("note", "y" * 2_000_000)
    for options in ({"pnginfo": text}, {"icc_profile": bytes(5_000_000)}):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        assert decode_image(buffer.getvalue())[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    "levels, white",
    [
        (np.array([[0, 51, 255]], np.int32), 255),
        (np.array([[0, 13107, 65535]], np.int32), 65535),
        (np.array([[0, 429496729, 2147483647]], np.int32), 2**31 - 1),
        (np.array([[0, 858993459, 4294967295]], np.uint32), 2**32 - 1),
        (np.array([[0, 13107, 65535]], np.uint16), 65535),
    ],
)
def test_grayscale_of_16_and_32_bits_keeps_its_range(levels, white, tmp_path):
    unsigned = levels.dtype == np.uint32
    Image.fromarray(levels.view(np.int32) if unsigned else levels).save(tmp_path / "a.tif")
    if unsigned:  # Pillow always writes "signed" into tag 339
        signed, entry = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
        content = (tmp_path / "a.tif").read_bytes()
        assert content.count(signed) == 1
        (tmp_path / "a.tif").write_bytes(content.replace(signed, entry))
    decoded = decode_image(tmp_path / "a.tif")[0, :, 0]
    np.testing.assert_allclose(decoded, levels[0].astype(np.float64) / white * 255, atol=0.6)


def test_descriptions_have_marks_and_encodings(tmp_path):
    _photo(tmp_path / "a.png", 1)
    for content in (b"\xef\xbb\xbfA cat.\nde=Eine K\xe4tze", "A cat.\n".encode("utf-16")):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_stamps(tmp_path).captions == (("A cat.",),)
    (tmp_path / "a.txt").write_bytes(b"A caf\xe9.")
    with pytest.raises(DataError, match="a.txt, line 1: byte 0xe9 is not UTF-8"):
        read_stamps(tmp_path)


@pytest.mark.parametrize(
    "format, offset, patch",
    [("AVIF", 40, b"\xff" * 60), ("DDS", 80, b"\0" * 4), ("JPEG2000", 30, b"\xff" * 40)],
)
def test_what_a_decoder_does_not_know_is_a_corrupt_image(format, offset, patch):
    """Found by `make fuzz`: RuntimeError and NotImplementedError of Pillow's plugins."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format)
    content = bytearray(buffer.getvalue())
    content[offset : offset + len(patch)] = patch
    with pytest.raises(CorruptImageError):
        decode_image(bytes(content))


def test_too_many_pixels_are_refused_before_they_are_decoded():
    buffer = io.BytesIO()
    Image.new("1", (40_000, 4_000)).save(buffer, "PNG")
    with pytest.raises(CorruptImageError, match="40000 × 4000 pixels, more than 134,217,728"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_bands_give_what_the_whole_image_gives(mode, monkeypatch):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (13, 9, 3), np.uint8))
    if mode == "P":
        picture = picture.quantize(17)
        picture.info["transparency"] = 3
    elif mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (13, 9), np.uint16))
    else:
        picture = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(rng.integers(0, 256, (13, 9), np.uint8)))
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    whole = decode_image(buffer.getvalue())
    monkeypatch.setattr(images, "_BAND", 20)
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), whole)
    assert whole.std() > 10


def test_accents_are_one_class_however_they_are_written(tmp_path):
    """Archives made on a Mac take accents apart."""
    _photo(tmp_path / "mac/cafe\u0301/a.png", 1)
    _photo(tmp_path / "linux/caf\u00e9/b.png", 2)
    folder = ImageFolder([tmp_path / "mac", tmp_path / "linux"], classes=["cafe\u0301"])
    assert folder.class_names == ("caf\u00e9",) and folder.labels.tolist() == [0, 0]


def test_splits_are_not_taken_for_classes(tmp_path):
    for value, name in enumerate(("train/cat/a.png", "val/cat/b.png", "val/dog/c.png")):
        _photo(tmp_path / name, value)
    with pytest.raises(DataError, match=r"\(train, val\) are splits that hold the classes"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path / "val").class_names == ("cat", "dog")
    _photo(tmp_path / "vehicles/train/a.png", 5)
    _photo(tmp_path / "vehicles/car/b.png", 6)
    assert ImageFolder(tmp_path / "vehicles").class_names == ("car", "train")


def test_a_folder_that_cannot_be_opened_is_counted(tmp_path, caplog, monkeypatch):
    for value, name in enumerate(("cat/a.png", "cat/locked/b.png", "dog/c.png")):
        _photo(tmp_path / name, value)
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    folder = _scan(tmp_path, caplog)
    assert len(folder) == 2 and "1 folders that cannot be opened" in folder.left_out
    with pytest.raises(DataError, match="locked cannot be opened .Permission denied."):
        read_stamps(tmp_path)


@pytest.mark.parametrize("ratio", [1, 3])
def test_pixels_that_the_file_cannot_hold_are_refused_at_once(ratio):
    """A blank page of 17 million pixels is decoded; one that claims more than its bytes is not."""
    buffer = io.BytesIO()
    Image.new("1", (2480, 7016), 1).save(buffer, "TIFF", compression="group4")
    content = bytearray(buffer.getvalue())
    if ratio == 1:
        assert decode_image(bytes(content)).shape == (7016, 2480, 3)
        return
    width = content.index(struct.pack("<HHII", 256, 3, 1, 2480))
    struct.pack_into("<HHII", content, width, 256, 3, 1, 14000)
    with pytest.raises(CorruptImageError, match="14000 × 7016 pixels cannot stand in .* bytes"):
        decode_image(bytes(content))
