"""The word ring: nothing overlaps, everything is inside, the nearest word is most prominent, the
text is safe SVG.
"""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from v2l_jax.report.word_ring import place_words, text_width, word_ring

PHOTO = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
WORDS = [" tabby", "cat", " kitten", "Persian cat", " mountain lion", " pet", "animal", " whiskers"]
COSINES = [0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5]
SVG = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def texts(svg):
    return parse(svg).findall(f"{SVG}text")


@pytest.mark.parametrize("seed", range(4))
def test_words_touch_neither_each_other_nor_the_photo_nor_the_sides(seed):
    rng = np.random.default_rng(seed)
    widths, heights = rng.uniform(8, 320, 21).tolist(), rng.uniform(13, 21, 21).tolist()
    boxes = place_words(widths, heights)
    assert len(boxes) == 21
    for i, a in enumerate(boxes):
        assert 2 * a.half_width == pytest.approx(widths[i]) and 2 * a.half_height > heights[i]
        assert abs(a.x) + a.half_width <= 178
        nearest = math.hypot(max(abs(a.x) - a.half_width, 0), max(abs(a.y) - a.half_height, 0))
        assert nearest > 76
        for b in boxes[:i]:
            apart_x = abs(a.x - b.x) - a.half_width - b.half_width
            apart_y = abs(a.y - b.y) - a.half_height - b.half_height
            assert apart_x >= 4.999 or apart_y >= -1e-9


def test_first_words_are_spread_round_the_photo():
    angles = [
        math.degrees(math.atan2(box.y, box.x)) % 360 for box in place_words([30.0] * 4, [15.0] * 4)
    ]
    gaps = np.diff(sorted(angles), append=min(angles) + 360)
    assert gaps.min() > 60


def test_the_same_input_gives_the_same_text():
    assert word_ring(PHOTO, WORDS, COSINES, "cat") == word_ring(PHOTO, WORDS, COSINES, "cat")


def test_every_word_is_drawn_inside_the_figure():
    svg = word_ring(PHOTO, WORDS, COSINES, "a cat at home")
    left, top, width, height = map(float, parse(svg).get("viewBox").split())
    drawn = texts(svg)
    assert [text.text for text in drawn] == [word.strip() for word in WORDS] + ["a cat at home"]
    for text in drawn:
        half, size = (
            text_width(text.text, float(text.get("font-size"))) / 2,
            float(text.get("font-size")),
        )
        x, y = float(text.get("x", 0)), float(text.get("y"))
        assert left <= x - half and x + half <= left + width
        assert top <= y - size * 0.8 and y + size * 0.25 <= top + height


def test_nearer_words_are_larger_darker_and_closer():
    drawn = texts(word_ring(PHOTO, WORDS, COSINES))
    sizes, opacities = (
        [float(text.get(name)) for text in drawn] for name in ("font-size", "fill-opacity")
    )
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 21 and sizes[-1] == 13
    assert (
        opacities == sorted(opacities, reverse=True) and opacities[0] == 1 and opacities[-1] >= 0.7
    )
    colours = [text.get("fill") for text in drawn]
    assert colours == ["var(--accent)"] + ["var(--ink)"] * 7


def test_colours_follow_the_page():
    svg = re.sub(r"data:[^\"]*", "", word_ring(PHOTO, WORDS, COSINES, "cat"))
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b|rgb|black|white", svg)


def test_odd_words_stay_text():
    words = ["<b>&", "\u202eevil", "", "supercalifragilisticexpialidocious", '"']
    svg = word_ring(PHOTO, words, [0.5] * 5, "<i>")
    assert [text.text or "" for text in texts(svg)] == [
        "<b>&",
        "[U+202E]evil",
        "",
        "supercalifragilistic…",
        '"',
        "<i>",
    ]
    assert parse(svg).get("aria-label").startswith("<i>, ringed by its nearest words: <b>&, ")
    assert {float(text.get("font-size")) for text in texts(svg)[:5]} == {21.0}


def test_a_word_too_wide_for_the_figure_is_cut():
    svg = word_ring(PHOTO, ["W" * 40, "日本語" * 9, "i" * 40], [0.5] * 3)
    for text in texts(svg):
        assert text.text.endswith("…") and 190 < text_width(text.text, 21.0) <= 240


def test_the_photo_is_inside_the_figure():
    image = parse(word_ring(PHOTO, WORDS, COSINES)).find(f"{SVG}image")
    assert image.get("href").startswith("data:image/jpeg;base64,")


def test_no_words_leave_the_photo():
    svg = word_ring(PHOTO, [], [])
    assert texts(svg) == [] and parse(svg).find(f"{SVG}image") is not None


def test_a_similarity_is_needed_for_each_word():
    with pytest.raises(ValueError, match="8 words, 2 similarities"):
        word_ring(PHOTO, WORDS, [0.1, 0.2])


def test_widths_are_not_under_estimated():
    """Against DejaVu Sans, wider than most typefaces that pages use."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family="DejaVu Sans", size=20)
    for text in [
        *WORDS,
        "WWW mmm",
        "illicit jilt",
        "German Shepherd dog",
        "0123456789",
        "quick brown fox jumps over",
        "ABCXYZ",
        "a-b_c",
    ]:
        assert TextToPath().get_text_width_height_descent(text.strip(), font, ismath=False)[
            0
        ] <= text_width(text.strip(), 20.0)
