"""Text that is read in images: its order, its form, the file, and the real reader where it is."""

import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from v2l_jax.data.questions import Question, QuestionImages
from v2l_jax.errors import ConfigError
from v2l_jax.representations import ocr
from v2l_jax.representations.base import ImageSet, Text
from v2l_jax.run.run import Run


def _box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_lines_are_read_by_rows_from_the_left():
    lines = [
        (_box(60, 12, 90, 22), 'a "b"', 0.9),
        (_box(5, 50, 50, 60), "last", 0.9),
        (_box(5, 10, 50, 20), "first  word", 0.9),
    ]
    expected = 'Text in the image: "first word"; "a \'b\'"; "last"'
    assert ocr.written(lines, (100, 100), False) == expected
    boxes = ocr.written(lines[:1], (100, 200), True)
    assert boxes.endswith(" 300 120 450 220")  # 999 · 60 / 200, 999 · 12 / 100, …
    assert ocr.written([], (100, 100), True) == ""


def test_images_without_text_are_nothing_and_the_file_is_kept(tmp_path, monkeypatch):
    seen = []

    class RapidOCR:
        def __init__(self, text_score):
            self.least = text_score

        def __call__(self, image):
            seen.append(image[0, 0].tolist())
            found = [[_box(0, 0, 9, 9), "STOP", "0.9"]] if image[0, 0, 2] > 100 else None
            return found, [0.1]

    fake = types.SimpleNamespace(RapidOCR=RapidOCR)
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", fake)
    ocr.reader.cache_clear()
    red = np.zeros((10, 10, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    for i in range(2):
        Image.fromarray(red * (1 - i)).save(tmp_path / f"{i}.png")
    part = QuestionImages(Question(str(tmp_path / f"{i}.png"), "", ("",), "") for i in range(2))
    options, run = ocr.Options(), Run(ConfigDict(), tmp_path)
    images = ImageSet(("some", part))
    for _ in range(2):
        options.prepare(run, images, 5)
    assert seen == [[0, 0, 200], [0, 0, 0]]  # blue first, each image once
    segments = options.segments(run, images, 5)
    assert list(segments) == [(Text('Text in the image: "STOP"'),), ()]
    ocr.reader.cache_clear()


def test_a_missing_reader_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    ocr.reader.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'v2l_jax\[ocr\]'"):
        ocr.reader(0.5)


def test_rendered_text_is_read():
    pytest.importorskip("rapidocr_onnxruntime", reason="RapidOCR is not installed: extra ocr")
    ocr.reader.cache_clear()
    image = Image.new("RGB", (320, 120), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(28)
    draw.text((20, 15), "OPEN DAILY", fill="black", font=font)
    draw.text((20, 70), "from 9 to 17", fill="black", font=font)
    read = ocr.written(ocr.reader(0.5)(np.asarray(image)), (120, 320), False)
    assert read.replace(" ", "") == 'Textintheimage:"OPENDAILY";"from9to17"'
